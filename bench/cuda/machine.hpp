// What a figure was measured on, for the JSON of the CUDA benchmarks.
#pragma once

#include <nlohmann/json.hpp>

namespace freekv::bench {

/// The current device, its driver and the runtime.
nlohmann::json describe_machine();
/// The commit that was built; `git describe` when CMake ran.
const char* built_commit();
/// GB/s of contiguous copies of 256 MiB from pinned memory to the device.
double link_rate();

}  // namespace freekv::bench
