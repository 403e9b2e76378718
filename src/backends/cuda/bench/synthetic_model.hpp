// Weights for a shape, made up on the device: what benchmarks measure.
#pragma once

#include "backends/cuda/decoder.hpp"
#include "backends/device_bench.hpp"

namespace freekv::cuda {

/// Throws Error(kUnsupported) for a KV type that the kernels do not run.
DecoderShape decoder_shape(const SyntheticShape& shape);

/// All matrices in one piece of device memory.
class SyntheticModel {
 public:
  SyntheticModel(const SyntheticShape& shape, cudaStream_t stream);

  const DecoderWeights& weights() const { return weights_; }
  const DeviceBuffer& values() const { return values_; }

 private:
  DeviceBuffer values_, vectors_;
  DecoderWeights weights_;
};

}  // namespace freekv::cuda
