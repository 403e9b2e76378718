#include "core/dtype.hpp"

#include <algorithm>
#include <cstring>

#include "core/check.hpp"
#include "core/quantized_block.hpp"

namespace freekv {
namespace {

// These two have no external names: position-independent code must call those that do.
inline float widen_half(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
  // Subnormal: mantissa * 2^-24 is exact in f32.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

// Of F32, F16 or BF16.
inline float plain_element(DType dtype, const std::byte* row, int64_t i) {
  if (dtype == DType::kF32) {
    float value = 0;
    std::memcpy(&value, row + i * 4, 4);
    return value;
  }
  uint16_t half = 0;
  std::memcpy(&half, row + i * 2, 2);
  return dtype == DType::kF16 ? widen_half(half) : bf16_to_f32(half);
}

}  // namespace

size_t row_bytes(DType dtype, int64_t n) {
  const DTypeInfo& info = dtype_info(dtype);
  check_argument(n % info.block_values == 0, "a {} row has {} values, must be a multiple of {}",
                 info.name, n, info.block_values);
  return static_cast<size_t>(n / info.block_values) * static_cast<size_t>(info.block_bytes);
}

float f16_to_f32(uint16_t bits) { return widen_half(bits); }

uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Adding 0.5 aligns the mantissa to units of 2^-24 and rounds to nearest even.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float load_element(DType dtype, const std::byte* row, int64_t i) {
  if (!is_quantized(dtype)) return plain_element(dtype, row, i);
  return unpack_piece(dtype, row, i / kPiece).value(static_cast<int>(i % kPiece));
}

void load_row(DType dtype, const std::byte* row, std::span<float> out) {
  const auto n = static_cast<int64_t>(out.size());
  if (!is_quantized(dtype)) {
    for (int64_t i = 0; i < n; ++i) out[static_cast<size_t>(i)] = plain_element(dtype, row, i);
    return;
  }
  for (int64_t first = 0; first < n; first += kPiece) {
    const QuantPiece piece = unpack_piece(dtype, row, first / kPiece);
    for (int i = 0; i < std::min<int64_t>(kPiece, n - first); ++i) {
      out[static_cast<size_t>(first + i)] = piece.value(i);
    }
  }
}

void store_element(DType dtype, std::byte* row, int64_t i, float value) {
  uint16_t half = 0;
  switch (dtype) {
    case DType::kF32:
      std::memcpy(row + i * 4, &value, 4);
      return;
    case DType::kF16:
      half = f32_to_f16(value);
      break;
    case DType::kBF16:
      half = f32_to_bf16(value);
      break;
    default:
      fail(ErrorCode::kUnsupported, "cannot store single elements as {}", dtype_name(dtype));
  }
  std::memcpy(row + i * 2, &half, 2);
}

}  // namespace freekv
