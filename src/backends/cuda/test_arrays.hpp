// What the tests of kernels share: arrays on their way to the device and back, and what their cases
// are called.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backends/cuda/layout.hpp"
#include "core/dtype.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {

inline DType dtype_of(KvType type) { return type == KvType::kBF16 ? DType::kBF16 : DType::kF16; }

inline std::string name_of(const KvGeometry& kv) {
  return "M=" + std::to_string(kv.kv_heads) + " G=" + std::to_string(kv.group) +
         " d=" + std::to_string(kv.head_dim) + " p=" + std::to_string(kv.page) +
         (kv.type == KvType::kBF16 ? " bf16" : " f16");
}

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
