// What libfreekv_cuda.so exports (backends/device_library.hpp).
#include "backends/cuda/bench/device_bench.hpp"
#include "backends/cuda/device_model.hpp"
#include "backends/device_library.hpp"

extern "C" __attribute__((visibility("default"))) const freekv::DeviceLibrary* freekv_cuda_open() {
  static const freekv::DeviceLibrary library{
      .interface = freekv::kDeviceInterface,
      .version = FREEKV_VERSION,
      .describe = freekv::cuda::describe_device,
      .open = [](const freekv::DeviceModelSpec& spec) -> std::unique_ptr<freekv::DeviceModel> {
        return std::make_unique<freekv::cuda::CudaModel>(spec);
      },
      .bench = []() -> std::unique_ptr<freekv::DeviceBench> {
        return std::make_unique<freekv::cuda::CudaBench>();
      }};
  return &library;
}
