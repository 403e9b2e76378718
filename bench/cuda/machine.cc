#include "cuda/machine.hpp"

#include <cuda_runtime_api.h>

#include <fstream>
#include <string>

#include "cuda/decode_bench.hpp"

namespace freekv::bench {
namespace {

// The driver's own version: the runtime tells only which CUDA it is good for.
std::string driver_version() {
  std::string version;
  std::ifstream("/sys/module/nvidia/version") >> version;
  if (!version.empty()) return version;
  std::string line;  // "NVRM version: NVIDIA UNIX ... Kernel Module  580.65.06  Release ..."
  std::getline(std::ifstream("/proc/driver/nvidia/version"), line);
  return line.empty() ? "unknown" : line;
}

}  // namespace

nlohmann::json describe_machine() {
  int device = 0, runtime = 0, driver = 0;
  cudaDeviceProp properties{};
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  check_cuda(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  return {{"gpu", properties.name},
          {"memory_bytes", properties.totalGlobalMem},
          {"sms", properties.multiProcessorCount},
          {"compute_capability", fmt::format("{}.{}", properties.major, properties.minor)},
          {"driver", driver_version()},
          {"driver_cuda", driver},
          {"runtime_cuda", runtime}};
}

const char* built_commit() { return FREEKV_COMMIT; }

double link_rate() {
  constexpr size_t kBytes = size_t{256} << 20;
  const PinnedBuffer host(kBytes, 4);
  const DeviceBuffer device(kBytes);
  const Stream stream;
  const double ms = milliseconds(stream, 8, [&] {
    check_cuda(cudaMemcpyAsync(device.data(), host.data(), kBytes, cudaMemcpyHostToDevice, stream),
               "a copy from pinned memory");
  });
  return static_cast<double>(kBytes) / ms * 1e-6;
}

}  // namespace freekv::bench
