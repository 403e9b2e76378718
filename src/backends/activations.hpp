// Activations in 8 bits, as the dot products of quantised weights take them.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>

#include "core/dtype.hpp"

namespace freekv {

/// How linear() takes its activations; linear_prefill() has them in f32 always.
enum class Activations : uint8_t {
  kAuto,  // 8 bits for the types of four to six bits that have a dot product of their own, else f32
  kF32,   // as they are: what the dequantised weights say
  kInt8,  // 8 bits for Q8_0 too
};

/// Whether linear() with weights of this dtype rounds its activations to 8 bits.
inline bool takes_int8(Activations activations, DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
      return activations != Activations::kF32;
    case DType::kQ8_0:
      return activations == Activations::kInt8;
    default:
      return false;
  }
}

/// Activations become q * scale, |q| <= 127, with one scale for as many values as the weights have
/// in a block: scale = max|x| / 127, q = x * (127 / max|x|) to nearest, halves to even. Any value
/// that is not finite makes the scale NaN, and with it every result; values too small for 127 / max
/// to be finite become 0.
struct ActivationScale {
  float scale;
  float inverse;

  /// From the largest of the values' magnitudes, as bits: there NaN is larger than infinity.
  static ActivationScale of(uint32_t largest_bits) {
    const auto largest = std::bit_cast<float>(largest_bits);
    if (!std::isfinite(largest)) return {std::nanf(""), 0};
    const float inverse = 127 / largest;
    return std::isfinite(inverse) ? ActivationScale{largest / 127, inverse} : ActivationScale{0, 0};
  }
};

/// The scalar definition: x is a row of whole blocks, q as long, scales one for each block.
inline void quantize_activations(std::span<const float> x, size_t block, std::span<int8_t> q,
                                 std::span<float> scales) {
  for (size_t b = 0; b < scales.size(); ++b) {
    uint32_t largest = 0;
    for (const float value : x.subspan(b * block, block)) {
      largest = std::max(largest, std::bit_cast<uint32_t>(value) & 0x7fffffffu);
    }
    const ActivationScale scale = ActivationScale::of(largest);
    scales[b] = scale.scale;
    for (size_t i = b * block; i < (b + 1) * block; ++i) {
      q[i] = scale.inverse == 0 ? int8_t{0}
                                : static_cast<int8_t>(std::nearbyint(x[i] * scale.inverse));
    }
  }
}

}  // namespace freekv
