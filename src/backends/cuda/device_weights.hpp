// A model's weights on a GPU: every matrix as bf16, whatever its type in the file.
#pragma once

#include <memory>

#include "backends/cuda/decoder.hpp"
#include "backends/cuda/pinned_pool.hpp"
#include "backends/device_model.hpp"

namespace freekv::cuda {

class UploadedWeights final : public DeviceWeights {
 public:
  /// Converts on spec.threads host threads, each through locked buffers of its own, and returns
  /// when all is there. Throws Error(kOutOfMemory) with both byte counts before anything is
  /// converted, Error(kCancelled) when spec.on_load says so.
  explicit UploadedWeights(const DeviceModelSpec& spec);

  const DecoderWeights& weights() const { return weights_; }
  /// For the sequences of all models that share the weights.
  const std::shared_ptr<PinnedPool>& slow() const { return slow_; }
  /// Bytes of device memory that the weights of `spec` take.
  static size_t bytes(const DeviceModelSpec& spec);

 private:
  DeviceBuffer matrices_, vectors_;
  DecoderWeights weights_;
  // Of long contexts none is kept: their time goes into reading, and the host may want the memory.
  std::shared_ptr<PinnedPool> slow_ = std::make_shared<PinnedPool>(size_t{2} << 30);
};

}  // namespace freekv::cuda
