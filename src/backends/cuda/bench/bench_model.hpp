// BenchModel (backends/device_bench.hpp) on an NVIDIA GPU.
#pragma once

#include <vector>

#include "backends/cuda/bench/synthetic_model.hpp"

namespace freekv::cuda {

class CudaBenchModel final : public BenchModel {
 public:
  explicit CudaBenchModel(const SyntheticShape& shape);

  Weights weights() const override { return read_; }
  double check_decode(const BenchCache& dense, const BenchCache& sparse) override;
  PrefillDifference check_prefill(const BenchCache& cache) override;
  DecodeTimes time_decode(const BenchCache& cache, const DecodeRun& run) override;
  PrefillTimes time_prefill(const BenchCache& cache, const PrefillRun& run) override;

 private:
  Decoder make_decoder(const BenchCache& cache, int batch) const;
  /// Makes up the KV of `tokens` tokens.
  void fill_cache(Decoder& decoder, int32_t sequence, int64_t tokens) const;
  /// Of the last step, n sequences; waits.
  std::vector<float> logits(const Decoder& decoder, int n) const;
  std::vector<float> step(Decoder& decoder, int32_t sequence, int32_t id) const;

  DecoderShape shape_;
  Stream stream_;
  SyntheticModel model_;
  Weights read_;
};

}  // namespace freekv::cuda
