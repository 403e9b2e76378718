#include "backends/cuda/bench/device_bench.hpp"

#include <fmt/format.h>

#include <fstream>

#include "backends/cuda/bench/bench_model.hpp"
#include "backends/cuda/bench/gather_bench.hpp"
#include "backends/cuda/bench/timing.hpp"
#include "backends/cuda/device_model.hpp"

namespace freekv::cuda {
namespace {

// The driver's own version: the runtime tells only which CUDA it is good for.
std::string driver_version() {
  std::string version;
  std::ifstream("/sys/module/nvidia/version") >> version;
  if (!version.empty()) return version;
  std::string line;  // "NVRM version: NVIDIA UNIX ... Kernel Module  580.65.06  Release ..."
  std::ifstream file("/proc/driver/nvidia/version");
  std::getline(file, line);
  return line.empty() ? "unknown" : line;
}

}  // namespace

CudaBench::CudaBench() { (void)describe_device(); }

BenchMachine CudaBench::machine() const {
  int device = 0;
  cudaDeviceProp properties{};
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  BenchMachine machine{
      .gpu = properties.name,
      .memory_bytes = properties.totalGlobalMem,
      .sms = properties.multiProcessorCount,
      .compute_capability = fmt::format("{}.{}", properties.major, properties.minor),
      .driver = driver_version()};
  check_cuda(cudaRuntimeGetVersion(&machine.runtime_cuda), "cudaRuntimeGetVersion");
  check_cuda(cudaDriverGetVersion(&machine.driver_cuda), "cudaDriverGetVersion");
  return machine;
}

double CudaBench::link_GB_s() const {
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

std::unique_ptr<BenchModel> CudaBench::make_model(const SyntheticShape& shape) const {
  return std::make_unique<CudaBenchModel>(shape);
}

std::vector<GatherRate> CudaBench::time_gather(const GatherRun& run) const {
  return time_gather_kernels(run);
}

}  // namespace freekv::cuda
