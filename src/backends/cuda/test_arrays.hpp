// Arrays of the tests of kernels, on their way to the device and back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/dtype.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {

/// Done when it returns, for streams that wait for no other too.
template <typename T>
void copy_to_device(const std::vector<T>& values, void* to) {
  if (values.empty()) return;
  check_cuda(cudaMemcpy(to, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
             "to the device");
  check_cuda(cudaDeviceSynchronize(), "to the device");
}

template <typename T>
DeviceBuffer to_device(const std::vector<T>& values) {
  DeviceBuffer buffer(values.size() * sizeof(T));
  copy_to_device(values, buffer.data());
  return buffer;
}

template <typename T>
std::vector<T> to_host(const DeviceBuffer& buffer) {
  std::vector<T> values(buffer.bytes() / sizeof(T));
  if (values.empty()) return values;
  check_cuda(
      cudaMemcpy(values.data(), buffer.data(), values.size() * sizeof(T), cudaMemcpyDeviceToHost),
      "to the host");
  return values;
}

inline std::vector<uint16_t> to_bf16(std::span<const float> values) {
  std::vector<uint16_t> result;
  for (const float value : values) result.push_back(f32_to_bf16(value));
  return result;
}

}  // namespace freekv::cuda
