// The k largest of n values without memory of its own: the k-th largest is found by bisection on
// the order of floats, each step one pass that counts, then one pass takes what lies above it.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "backends/cpu/selection.hpp"
#include "backends/selection_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/top_k.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/load_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

/// How many values are >= threshold (kStrict: > threshold). NaN never is.
template <bool kStrict>
size_t count_above(const float* values, size_t n, float threshold) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  const VF bound = hn::Set(d, threshold);
  const auto count = [&](size_t i) HWY_ATTR {
    const VF v = hn::LoadU(d, values + i);
    return kStrict ? hn::CountTrue(d, hn::Gt(v, bound)) : hn::CountTrue(d, hn::Ge(v, bound));
  };
  size_t sums[4] = {};
  size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    for (size_t j = 0; j < 4; ++j) sums[j] += count(i + j * lanes);
  }
  for (; i + lanes <= n; i += lanes) sums[0] += count(i);
  for (; i < n; ++i) sums[0] += kStrict ? values[i] > threshold : values[i] >= threshold;
  return sums[0] + sums[1] + sums[2] + sums[3];
}

/// Writes the ascending indices of all values above the threshold and of the first `ties` that
/// equal it; returns how many.
size_t take_above(const float* values, size_t n, float threshold, size_t ties, int32_t* out) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  const VF bound = hn::Set(d, threshold);
  size_t taken = 0;
  const auto take = [&](size_t i) {
    if (values[i] == threshold) {
      if (ties == 0) return;
      --ties;
    }
    out[taken++] = static_cast<int32_t>(i);
  };
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    // Few values are taken, so most vectors end here.
    uint8_t bytes[8] = {};
    hn::StoreMaskBits(d, hn::Ge(hn::LoadU(d, values + i), bound), bytes);
    uint64_t bits = 0;
    std::memcpy(&bits, bytes, sizeof(bits));
    for (; bits != 0; bits &= bits - 1) take(i + static_cast<size_t>(std::countr_zero(bits)));
  }
  for (; i < n; ++i) {
    if (values[i] >= threshold) take(i);
  }
  return taken;
}

/// Floats in their order as unsigned numbers, and back. -0 and +0 differ here, not in counting.
HWY_INLINE uint32_t order_of(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

HWY_INLINE float at_order(uint32_t order) {
  return std::bit_cast<float>((order >> 31) != 0 ? order & 0x7fffffffu : ~order);
}

/// All numbers, and of what is none the first so many.
void take_numbers(const float* values, size_t others, std::span<int32_t> out) {
  size_t taken = 0;
  for (size_t i = 0; taken < out.size(); ++i) {
    if (std::isnan(values[i])) {
      if (others == 0) continue;
      --others;
    }
    out[taken++] = static_cast<int32_t>(i);
  }
}

void top_k_any(const float* values, size_t n, std::span<int32_t> out) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const size_t k = out.size();
  const size_t numbers = count_above<false>(values, n, -kInfinity);
  if (numbers < k) {
    take_numbers(values, k - numbers, out);
    return;
  }
  // Invariant: at least k values are >= at_order(low), fewer than k are >= at_order(high).
  uint32_t low = order_of(-kInfinity);
  uint32_t high = order_of(kInfinity) + 1;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    const size_t count = count_above<false>(values, n, at_order(middle));
    (count >= k ? low : high) = middle;
    if (count == k) break;
  }
  const float threshold = at_order(low);
  const size_t above = count_above<true>(values, n, threshold);
  const size_t taken = take_above(values, n, threshold, k - above, out.data());
  check_internal(taken == k, "took {} of {} values, wanted {}", taken, n, k);
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(top_k_any);

void top_k(View<const float, 1> values, std::span<int32_t> out) {
  check_top_k(values, out);
  if (out.empty()) return;
  HWY_DYNAMIC_DISPATCH(top_k_any)(values.data(), static_cast<size_t>(values.shape(0)), out);
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
