// Element types of weights and KV, their storage sizes, and exact scalar conversions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace freekv {

enum class DType : uint8_t { kF32, kF16, kBF16, kQ8_0 };

/// Q8_0: blocks of 32 values, one f16 scale then 32 signed bytes (GGUF's layout).
inline constexpr int kQ8BlockValues = 32;
inline constexpr int kQ8BlockBytes = 34;

std::string_view dtype_name(DType dtype);

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
/// Stores into F32, F16 or BF16 (KV types); throws Error for others.
void store_element(DType dtype, std::byte* row, int64_t i, float value);

}  // namespace freekv
