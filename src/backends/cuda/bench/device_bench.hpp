// DeviceBench (backends/device_bench.hpp) on an NVIDIA GPU.
#pragma once

#include "backends/device_bench.hpp"

namespace freekv::cuda {

class CudaBench final : public DeviceBench {
 public:
  /// Throws Error(kDevice) as describe_device().
  CudaBench();

  BenchMachine machine() const override;
  double link_GB_s() const override;
  std::unique_ptr<BenchModel> make_model(const SyntheticShape& shape) const override;
  std::vector<GatherRate> time_gather(const GatherRun& run) const override;
};

}  // namespace freekv::cuda
