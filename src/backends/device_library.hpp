// The library of a device's backend, loaded at run time: one program runs with and without the
// toolkit, the driver and the device.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "backends/device_bench.hpp"
#include "backends/device_model.hpp"

namespace freekv {

/// Grows with every change of device_model.hpp, device_bench.hpp or of what stands here: program
/// and library speak C++ with each other and must come from the same headers.
inline constexpr int kDeviceInterface = 6;

struct DeviceInfo {
  std::string name;
  size_t free_bytes = 0;
  size_t total_bytes = 0;
};

/// What a library exports, through one C function. The first two members stay where they are, so
/// that another version can be told.
struct DeviceLibrary {
  int interface = 0;         // kDeviceInterface
  const char* version = "";  // of the project
  /// Throws Error(kDevice) in one line when there is no driver, an old one, or no device.
  DeviceInfo (*describe)() = nullptr;
  std::unique_ptr<DeviceModel> (*open)(const DeviceModelSpec& spec) = nullptr;
  /// Throws as describe().
  std::unique_ptr<DeviceBench> (*bench)() = nullptr;
};
using OpenDeviceLibrary = const DeviceLibrary* (*)();

inline constexpr const char* kCudaLibrary = "libfreekv_cuda.so";
inline constexpr const char* kCudaFunction = "freekv_cuda_open";

/// Loads the library, once for the life of the process: from the folder of the program or of the
/// library that this code is in, from ../lib beside it, or from where the system looks
/// (LD_LIBRARY_PATH). Throws Error(kDevice) that names what was looked for, or what kept a library
/// that was found from being loaded.
const DeviceLibrary& load_device_library(const std::string& file = kCudaLibrary,
                                         const std::string& function = kCudaFunction);

}  // namespace freekv
