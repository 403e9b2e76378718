#include "eval/row_logits.hpp"

#include <algorithm>
#include <cmath>

#include "core/check.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "eval/row_logits.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace freekv::eval::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DD = hn::ScalableTag<double>;
using VD = hn::Vec<DD>;

// NaN where a logit is.
float largest(const float* logits, size_t n) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  auto most = hn::Set(d, logits[0]);
  auto invalid = hn::IsNaN(most);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, logits + i);
    most = hn::Max(most, v);
    invalid = hn::Or(invalid, hn::IsNaN(v));
  }
  float result = hn::GetLane(hn::MaxOfLanes(d, most));
  bool found = !hn::AllFalse(d, invalid);
  for (; i < n; ++i) {
    result = std::max(result, logits[i]);
    found = found || std::isnan(logits[i]);
  }
  return found ? NAN : result;
}

HWY_INLINE VD load_doubles(const float* from) {
  const hn::Rebind<float, DD> df;
  return hn::PromoteTo(DD(), hn::LoadU(df, from));
}

// KL is the mean of p - q under the softmax of p, less p's normaliser plus q's: the logs of the
// sums of exponentials.
double divergence(const float* p, const float* q, size_t n) {
  const DD d;
  const size_t lanes = hn::Lanes(d);
  const double p_most = largest(p, n), q_most = largest(q, n);
  VD p_masses = hn::Zero(d), q_masses = hn::Zero(d), weighted = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const VD own = load_doubles(p + i), other = load_doubles(q + i);
    const VD mass = hn::Exp(d, hn::Sub(own, hn::Set(d, p_most)));
    p_masses = hn::Add(p_masses, mass);
    q_masses = hn::Add(q_masses, hn::Exp(d, hn::Sub(other, hn::Set(d, q_most))));
    // A token that cannot come (its logit may be -infinity) adds nothing.
    const VD term = hn::Mul(mass, hn::Sub(own, other));
    weighted = hn::Add(weighted, hn::IfThenElseZero(hn::Gt(mass, hn::Zero(d)), term));
  }
  double p_mass = hn::GetLane(hn::SumOfLanes(d, p_masses));
  double q_mass = hn::GetLane(hn::SumOfLanes(d, q_masses));
  double sum = hn::GetLane(hn::SumOfLanes(d, weighted));
  for (; i < n; ++i) {
    const double mass = std::exp(p[i] - p_most);
    p_mass += mass;
    q_mass += std::exp(q[i] - q_most);
    if (mass > 0) sum += mass * (static_cast<double>(p[i]) - q[i]);
  }
  const double p_normaliser = p_most + std::log(p_mass), q_normaliser = q_most + std::log(q_mass);
  check_internal(std::isfinite(p_normaliser) && std::isfinite(q_normaliser),
                 "the normalisers of {} logits are {} and {}", n, p_normaliser, q_normaliser);
  return sum / p_mass - p_normaliser + q_normaliser;
}

}  // namespace freekv::eval::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::eval {

HWY_EXPORT(largest);
HWY_EXPORT(divergence);

size_t likeliest(std::span<const float> logits) {
  check_internal(!logits.empty(), "{} logits to choose from", logits.size());
  const float most = HWY_DYNAMIC_DISPATCH(largest)(logits.data(), logits.size());
  const auto at = std::find(logits.begin(), logits.end(), most);
  return at == logits.end() ? 0 : static_cast<size_t>(at - logits.begin());
}

double kl_divergence(std::span<const float> p, std::span<const float> q) {
  check_internal(p.size() == q.size() && !p.empty(), "{} and {} logits to compare", p.size(),
                 q.size());
  const double result = HWY_DYNAMIC_DISPATCH(divergence)(p.data(), q.data(), p.size());
  // Rounding leaves a trace on either side of 0 where the rows are equal.
  return std::max(0.0, result);
}

}  // namespace freekv::eval
#endif  // HWY_ONCE
