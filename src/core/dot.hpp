// Products of vectors outside the backends.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace freekv {

/// a . b over n values: eight sums side by side, which compilers turn into SIMD without reordering
/// one sum.
inline float dot(const float* a, const float* b, int64_t n) {
  std::array<float, 8> sums{};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) {
      const auto at = static_cast<size_t>(i) + lane;
      sums[lane] += a[at] * b[at];
    }
  }
  float rest = 0;
  for (; i < n; ++i) rest += a[i] * b[i];
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7])) +
         rest;
}

}  // namespace freekv
