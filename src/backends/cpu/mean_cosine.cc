// The correction test of FreeKV.
#include <algorithm>
#include <cmath>

#include "backends/cpu/selection.hpp"
#include "backends/selection_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/mean_cosine.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/load_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

float cosine(const float* a, const float* b, size_t n) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  VF dot = hn::Zero(d);
  VF aa = hn::Zero(d);
  VF bb = hn::Zero(d);
  size_t e = 0;
  for (; e + lanes <= n; e += lanes) {
    const VF x = hn::LoadU(d, a + e);
    const VF y = hn::LoadU(d, b + e);
    dot = hn::MulAdd(x, y, dot);
    aa = hn::MulAdd(x, x, aa);
    bb = hn::MulAdd(y, y, bb);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, dot));
  double a2 = hn::GetLane(hn::SumOfLanes(d, aa));
  double b2 = hn::GetLane(hn::SumOfLanes(d, bb));
  for (; e < n; ++e) {
    sum += static_cast<double>(a[e]) * b[e];
    a2 += static_cast<double>(a[e]) * a[e];
    b2 += static_cast<double>(b[e]) * b[e];
  }
  if (!(a2 > 0 && b2 > 0)) return 0;
  // Equal vectors may give 1 + rounding, which would pass a tau that nothing should pass.
  return static_cast<float>(std::clamp(sum / (std::sqrt(a2) * std::sqrt(b2)), -1.0, 1.0));
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(cosine);

// A few hundred numbers per row: less work than waking another worker.
void mean_cosine(ExecutionContext&, View<const float, 3> q, View<const float, 3> previous,
                 View<float, 1> out) {
  check_cosine(q, previous, out);
  const auto dim = static_cast<size_t>(q.shape(2));
  for (int64_t r = 0; r < q.shape(0); ++r) {
    float sum = 0;
    for (int64_t g = 0; g < q.shape(1); ++g) {
      sum += HWY_DYNAMIC_DISPATCH(cosine)(q[r][g].data(), previous[r][g].data(), dim);
    }
    out[r] = sum / static_cast<float>(q.shape(1));
  }
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
