// The backends of this build, as a person chooses among them.
#include <fmt/format.h>

#include "backends/device_library.hpp"
#include "freekv/engine.hpp"

namespace freekv {

std::vector<BackendInfo> backends() {
  std::vector<BackendInfo> all = {
      {"cpu", "SIMD on the host's cores", "the host", ""},
      {"reference", "scalar, slow: what the others are held against", "the host", ""},
      {"cuda", "NVIDIA GPUs of compute capability 8.0 and newer", "", ""}};
  BackendInfo& cuda = all.back();
  try {
    const DeviceInfo device = load_device_library().describe();
    cuda.device = fmt::format("{}, {:.1f} of {:.1f} GiB free", device.name,
                              static_cast<double>(device.free_bytes) / 0x1p30,
                              static_cast<double>(device.total_bytes) / 0x1p30);
  } catch (const Error& error) {
    cuda.problem = error.what();
  }
  return all;
}

}  // namespace freekv
