// Pooling the page scores of a group.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "backends/cpu/selection.hpp"
#include "backends/selection_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/pool_scores.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/exp2_inl.hpp"
#include "backends/cpu/load_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

inline constexpr size_t kLanes = hn::MaxLanes(DF());

/// Calls body(i, count) for whole vectors of n values, then for what is left of them.
template <typename Body>
HWY_INLINE void for_vectors(size_t n, Body&& body) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, std::integral_constant<size_t, kLanes>{});
  if (i < n) body(i, n - i);
}

/// `count` values, -infinity in the lanes that are left. The whole vector where count says so.
template <typename Count>
HWY_INLINE VF load_some(const float* values, Count count) {
  if constexpr (std::is_same_v<Count, std::integral_constant<size_t, kLanes>>) {
    return hn::LoadU(DF(), values);
  } else {
    HWY_ALIGN float lanes[kLanes];
    std::fill(std::copy_n(values, count, lanes), lanes + kLanes,
              -std::numeric_limits<float>::infinity());
    return hn::Load(DF(), lanes);
  }
}

template <typename Count>
HWY_INLINE void store_some(VF v, float* values, Count count) {
  if constexpr (std::is_same_v<Count, std::integral_constant<size_t, kLanes>>) {
    hn::StoreU(v, DF(), values);
  } else {
    HWY_ALIGN float lanes[kLanes];
    hn::Store(v, DF(), lanes);
    std::copy_n(lanes, count, values);
  }
}

/// row = 2^(scale * (row - max)); returns the sum.
HWY_INLINE float exponentials(float* row, size_t n, float scale) {
  const DF d;
  VF highest = hn::Set(d, -std::numeric_limits<float>::infinity());
  for_vectors(n, [&](size_t i, auto count)
                     HWY_ATTR { highest = hn::Max(highest, load_some(row + i, count)); });
  highest = hn::MaxOfLanes(d, highest);
  const VF factor = hn::Set(d, scale);
  VF mass = hn::Zero(d);
  for_vectors(n, [&](size_t i, auto count) HWY_ATTR {
    const VF weight = exp2(d, hn::Mul(factor, hn::Sub(load_some(row + i, count), highest)));
    mass = hn::Add(mass, weight);
    store_some(weight, row + i, count);
  });
  return hn::GetLane(hn::SumOfLanes(d, mass));
}

/// pooled = the sum or the largest of what it is and factor * row; `first`: it is nothing yet.
template <bool kMean>
HWY_INLINE void pool_row(const float* row, size_t n, float factor, bool first, float* pooled) {
  const DF d;
  const VF f = hn::Set(d, factor);
  for_vectors(n, [&](size_t i, auto count) HWY_ATTR {
    VF all = hn::Mul(f, load_some(row + i, count));
    if (!first) {
      const VF before = load_some(pooled + i, count);
      all = kMean ? hn::Add(before, all) : hn::Max(before, all);
    }
    store_some(all, pooled + i, count);
  });
}

template <bool kMean>
HWY_INLINE void pool_rows(bool softmax, float scale, View<float, 2> scores, View<float, 1> pooled) {
  const int64_t group = scores.shape(0);
  const auto n = static_cast<size_t>(scores.shape(1));
  for (int64_t g = 0; g < group; ++g) {
    float* row = scores[g].data();
    float factor = kMean ? 1 / static_cast<float>(group) : 1;
    if (softmax) factor /= exponentials(row, n, scale * kLog2E);
    pool_row<kMean>(row, n, factor, g == 0, pooled.data());
  }
}

void pool_any(Pooling pooling, float scale, View<float, 2> scores, View<float, 1> pooled) {
  if (scores.shape(1) == 0) return;
  const bool softmax = pooling == Pooling::kMeanSoftmax || pooling == Pooling::kMaxSoftmax;
  if (pooling == Pooling::kMeanSoftmax || pooling == Pooling::kMeanScore) {
    pool_rows<true>(softmax, scale, scores, pooled);
  } else {
    pool_rows<false>(softmax, scale, scores, pooled);
  }
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(pool_any);

void pool_scores(Pooling pooling, float scale, View<float, 2> scores, View<float, 1> pooled) {
  check_pooling(scores, pooled);
  HWY_DYNAMIC_DISPATCH(pool_any)(pooling, scale, scores, pooled);
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
