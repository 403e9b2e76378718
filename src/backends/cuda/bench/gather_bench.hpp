// GB/s of recall by kernel, without a model around it.
#pragma once

#include <vector>

#include "backends/device_bench.hpp"

namespace freekv::cuda {

/// As DeviceBench::time_gather().
std::vector<GatherRate> time_gather_kernels(const GatherRun& run);

}  // namespace freekv::cuda
