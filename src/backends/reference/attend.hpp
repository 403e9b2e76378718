// Attention of one query over one head's pages: the one definition of it that both reference
// operations use, so that prefill and decode agree to the bit.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "backends/tensors.hpp"
#include "core/check.hpp"

namespace freekv::reference {

inline constexpr int kMaxHeadDim = 256;

/// out[d] = softmax(scale * q . K) V over the first `visible` tokens of `slots` (all full pages of
/// `head`, but the last that is reached), in their order, as one running softmax in f64. No visible
/// token gives zeros. Returns ln sum exp(scale * q . k), -infinity of no token.
inline double attend(std::span<const float> q, const KvPool& pool, int head,
                     std::span<const int32_t> slots, int64_t visible, float scale,
                     std::span<float> out) {
  const int d = pool.shape.head_dim;
  const int page = pool.shape.page;
  check_argument(d >= 1 && d <= kMaxHeadDim, "head_dim is {}, must be 1 to {}", d, kMaxHeadDim);
  check_internal(visible <= static_cast<int64_t>(slots.size()) * page,
                 "{} visible tokens do not fit {} pages of {}", visible, slots.size(), page);
  const size_t stride = pool.token_stride();
  std::array<float, kMaxHeadDim> key, value;
  std::array<double, kMaxHeadDim> sum{};
  double mass = 0;
  double highest = -std::numeric_limits<double>::infinity();
  const std::byte *keys = nullptr, *values = nullptr;
  for (int64_t t = 0; t < visible; ++t) {
    if (t % page == 0) {
      const int32_t slot = slots[static_cast<size_t>(t / page)];
      keys = pool.keys(slot, head);
      values = pool.values(slot, head);
    }
    const size_t offset = static_cast<size_t>(t % page) * stride;
    load_row(pool.shape.dtype, keys + offset, std::span(key).first(q.size()));
    load_row(pool.shape.dtype, values + offset, std::span(value).first(q.size()));
    double score = 0;
    for (size_t e = 0; e < q.size(); ++e) score += static_cast<double>(q[e]) * key[e];
    score *= scale;
    if (score > highest) {
      const double shrink = std::exp(highest - score);
      for (double& s : sum) s *= shrink;
      mass *= shrink;
      highest = score;
    }
    const double weight = std::exp(score - highest);
    mass += weight;
    for (size_t e = 0; e < q.size(); ++e) sum[e] += weight * value[e];
  }
  for (size_t e = 0; e < out.size(); ++e) {
    out[e] = visible > 0 ? static_cast<float>(sum[e] / mass) : 0.0f;
  }
  return highest + std::log(mass);
}

}  // namespace freekv::reference
