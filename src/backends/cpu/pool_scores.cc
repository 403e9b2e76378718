// Pooling the page scores of a group.
#include <algorithm>
#include <limits>

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

/// One vector from row[i], -infinity past the end.
HWY_INLINE VF load_padded(const float* row, size_t i, size_t n) {
  if (i + kLanes <= n) return hn::LoadU(DF(), row + i);
  HWY_ALIGN float lanes[kLanes];
  std::fill(std::copy(row + i, row + n, lanes), lanes + kLanes,
            -std::numeric_limits<float>::infinity());
  return hn::Load(DF(), lanes);
}

HWY_INLINE void store_padded(VF v, float* row, size_t i, size_t n) {
  if (i + kLanes <= n) {
    hn::StoreU(v, DF(), row + i);
    return;
  }
  HWY_ALIGN float lanes[kLanes];
  hn::Store(v, DF(), lanes);
  std::copy(lanes, lanes + (n - i), row + i);
}

/// row = 2^(scale * (row - max)); returns the sum.
HWY_INLINE float exponentials(float* row, size_t n, float scale) {
  const DF d;
  VF highest = load_padded(row, 0, n);
  for (size_t i = kLanes; i < n; i += kLanes) highest = hn::Max(highest, load_padded(row, i, n));
  highest = hn::MaxOfLanes(d, highest);
  const VF factor = hn::Set(d, scale);
  VF mass = hn::Zero(d);
  for (size_t i = 0; i < n; i += kLanes) {
    const VF weight = exp2(d, hn::Mul(factor, hn::Sub(load_padded(row, i, n), highest)));
    mass = hn::Add(mass, weight);
    store_padded(weight, row, i, n);
  }
  return hn::GetLane(hn::SumOfLanes(d, mass));
}

/// row = factor * row.
HWY_INLINE void multiply(float* row, size_t n, float factor) {
  const DF d;
  for (size_t i = 0; i < n; i += kLanes) {
    store_padded(hn::Mul(hn::Set(d, factor), load_padded(row, i, n)), row, i, n);
  }
}

void pool_any(Pooling pooling, float scale, View<float, 2> scores, View<float, 1> pooled) {
  const DF d;
  const int64_t group = scores.shape(0);
  const auto n = static_cast<size_t>(scores.shape(1));
  if (n == 0) return;
  if (pooling == Pooling::kMeanSoftmax || pooling == Pooling::kMaxSoftmax) {
    for (int64_t g = 0; g < group; ++g) {
      float* row = scores[g].data();
      multiply(row, n, 1 / exponentials(row, n, scale * kLog2E));
    }
  }
  const bool mean = pooling == Pooling::kMeanSoftmax || pooling == Pooling::kMeanScore;
  const VF share = hn::Set(d, 1 / static_cast<float>(group));
  for (size_t i = 0; i < n; i += kLanes) {
    VF all = load_padded(scores[0].data(), i, n);
    for (int64_t g = 1; g < group; ++g) {
      const VF one = load_padded(scores[g].data(), i, n);
      all = mean ? hn::Add(all, one) : hn::Max(all, one);
    }
    store_padded(mean ? hn::Mul(all, share) : all, pooled.data(), i, n);
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
