// Element types of weights and KV, their storage sizes, and exact scalar conversions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace freekv {

/// The names and layouts are GGUF's; those of blocks are in quantized_block.hpp.
enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K
};
inline constexpr int kDTypes = 11;

/// A row of `block_values` values takes `block_bytes` bytes; 1 value where there are no blocks.
struct DTypeInfo {
  std::string_view name;
  int block_values;
  int block_bytes;
};
inline constexpr DTypeInfo kDTypeInfo[kDTypes] = {
    {"F32", 1, 4},      {"F16", 1, 2},      {"BF16", 1, 2},    {"Q8_0", 32, 34},
    {"Q4_0", 32, 18},   {"Q4_1", 32, 20},   {"Q5_0", 32, 22},  {"Q5_1", 32, 24},
    {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210}};
constexpr const DTypeInfo& dtype_info(DType dtype) {
  return kDTypeInfo[static_cast<size_t>(dtype)];
}
constexpr std::string_view dtype_name(DType dtype) { return dtype_info(dtype).name; }
constexpr bool is_quantized(DType dtype) { return dtype_info(dtype).block_values > 1; }
inline constexpr int kQ8BlockValues = dtype_info(DType::kQ8_0).block_values;

/// Bytes of a row of `n` values; n must be a multiple of the block for block types.
size_t row_bytes(DType dtype, int64_t n);

/// IEEE half to float, exact.
float f16_to_f32(uint16_t bits);
/// Float to IEEE half, to nearest even; overflow gives infinity, NaN stays NaN.
uint16_t f32_to_f16(float value);

inline float bf16_to_f32(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
/// Float to bfloat16, to nearest even; NaN stays NaN.
uint16_t f32_to_bf16(float value);

/// Element `i` of a row in any dtype, as float: the scalar reference of every reader.
float load_element(DType dtype, const std::byte* row, int64_t i);
/// out[i] = element i of a row, for all of `out`.
void load_row(DType dtype, const std::byte* row, std::span<float> out);
/// Stores into F32, F16 or BF16 (KV types); throws Error for others.
void store_element(DType dtype, std::byte* row, int64_t i, float value);

}  // namespace freekv
