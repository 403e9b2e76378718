// DeviceModel (backends/device_model.hpp) on an NVIDIA GPU: weights, prefill and the decode graph.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "backends/cuda/decoder.hpp"
#include "backends/cuda/device_weights.hpp"
#include "backends/cuda/prefill.hpp"
#include "backends/cuda/token_reader.hpp"
#include "backends/device_library.hpp"

namespace freekv::cuda {

/// The GPU that CUDA gives this process first. Throws Error(kDevice) in one line when there is no
/// driver, an old one, no GPU, or one that the kernels do not run on.
DeviceInfo describe_device();

class CudaModel final : public DeviceModel {
 public:
  /// Throws Error(kUnsupported) naming what the kernels do not run: a head dimension, group, page
  /// size, matrix width or KV type.
  explicit CudaModel(const DeviceModelSpec& spec);
  ~CudaModel() override;

  Footprint footprint(int64_t context) const override;
  const std::string& device() const override { return info_.name; }
  std::shared_ptr<DeviceWeights> weights() const override { return weights_; }
  int32_t open(int64_t context) override;
  void close(int32_t sequence) noexcept override;
  int64_t tokens(int32_t sequence) const override;
  View<const float, 1> prefill(int32_t sequence, std::span<const int32_t> ids,
                               const std::function<bool(int64_t)>& proceed,
                               const DevicePrefix& prefix = {},
                               const DeviceQueries& queries = {}) override;
  View<const float, 2> decode(std::span<const int32_t> sequences,
                              std::span<const int32_t> ids) override;
  void read_tokens(int32_t sequence, int32_t layer, int64_t first, View<float, 3> k,
                   View<float, 3> v) const override;
  void counters(int32_t sequence, std::span<LayerCounters> out) const override;

 private:
  /// Calls body(). Once a call has failed with kDevice no later one reaches the device.
  template <typename Body>
  auto guarded(Body&& body) const;
  void check_room(int64_t context) const;
  /// The decoder's logits of the first n rows, in host memory.
  View<const float, 2> fetch_logits(int64_t n);

  DeviceInfo info_;
  DeviceModelSpec spec_;  // sizes and limits; its borrowed views are not looked at any more
  std::shared_ptr<UploadedWeights> weights_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<Prefill> prefill_;
  PinnedBuffer logits_;  // [max_batch, V]
  Event fetched_{EventUse::kSleep};
  mutable TokenReader reader_;
  mutable std::optional<std::string> lost_;  // what the device failed with
};

}  // namespace freekv::cuda
