// Attention mass of pages: estimated from keys of 2 bits, and exact.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "backends/reference/attend.hpp"
#include "backends/reference/selection.hpp"
#include "backends/selection_checks.hpp"

namespace freekv::reference {
namespace {

constexpr int kGroup = Key2SketchView::kGroup;

/// ln sum exp(x) of what was added.
class LogSum {
 public:
  void add(double x) {
    if (x > highest_) {
      mass_ = mass_ * std::exp(highest_ - x) + 1;
      highest_ = x;
    } else {
      mass_ += std::exp(x - highest_);
    }
  }
  double value() const { return highest_ + std::log(mass_); }

 private:
  double highest_ = -std::numeric_limits<double>::infinity();
  double mass_ = 0;
};

/// How far the two bits of a channel stand from the right of its byte.
int level_shift(int channel) { return channel % kGroup / 4 * 2; }

std::byte& level_byte(const Key2SketchView& sketch, int64_t page, int token, int channel) {
  return sketch.levels(page, channel / kGroup, token)[channel % 4];
}

int level_of(float key, float lo, float step) {
  if (!(step > 0)) return 0;
  const float x = (key - lo) / step;
  return x >= 3 ? 3 : x >= 2 ? 2 : x >= 1 ? 1 : 0;
}

}  // namespace

void build_key2_sketch(const KvPool& pool, int32_t slot, int head, const Key2SketchView& sketch,
                       int64_t page) {
  check_key2(pool, slot, head, sketch, page);
  const std::byte* keys = pool.keys(slot, head);
  const size_t stride = pool.token_stride();
  const auto key = [&](int t, int e) {
    return load_element(pool.shape.dtype, keys + static_cast<size_t>(t) * stride, e);
  };
  std::fill(sketch.levels(page, 0, 0), sketch.lo(page + 1), std::byte{0});
  for (int e = 0; e < sketch.head_dim; ++e) {
    float hi = key(0, e);
    float lo = hi;
    for (int t = 1; t < sketch.page; ++t) {
      hi = std::max(hi, key(t, e));
      lo = std::min(lo, key(t, e));
    }
    store_element(sketch.dtype, sketch.lo(page), e, lo);
    // Quarters first: the range of large keys could overflow.
    store_element(sketch.dtype, sketch.step(page), e, 0.25f * hi - 0.25f * lo);
    lo = load_element(sketch.dtype, sketch.lo(page), e);
    const float step = load_element(sketch.dtype, sketch.step(page), e);
    for (int t = 0; t < sketch.page; ++t) {
      level_byte(sketch, page, t, e) |=
          static_cast<std::byte>(level_of(key(t, e), lo, step) << level_shift(e));
    }
  }
}

void score_key2_pages(View<const float, 2> q, const Key2SketchView& sketch, float scale,
                      std::span<const int32_t> pages, View<float, 2> scores) {
  check_key2_scores(q, sketch, pages, scores);
  check_argument(sketch.head_dim <= kMaxHeadDim, "head_dim is {}, must be at most {}",
                 sketch.head_dim, kMaxHeadDim);
  const auto dim = static_cast<size_t>(sketch.head_dim);
  std::array<float, kMaxHeadDim> product;
  std::array<int, kMaxHeadDim> weight;
  for (size_t i = 0; i < pages.size(); ++i) {
    const int64_t page = pages[i];
    for (int64_t g = 0; g < q.shape(0); ++g) {
      double base = 0;
      float largest = 0;
      for (size_t e = 0; e < dim; ++e) {
        const auto at = static_cast<int64_t>(e);
        const float step = load_element(sketch.dtype, sketch.step(page), at);
        product[e] = q[g][at] * step;
        largest = std::max(largest, std::abs(product[e]));
        const double lo = load_element(sketch.dtype, sketch.lo(page), at);
        base += q[g][at] * (lo + 0.5 * step);
      }
      const float inverse = largest >= 0x1p-100f ? 127 / largest : 0;
      for (size_t e = 0; e < dim; ++e) {
        weight[e] = static_cast<int>(std::nearbyint(product[e] * inverse));
      }
      LogSum mass;
      for (int t = 0; t < sketch.page; ++t) {
        int sum = 0;
        for (size_t e = 0; e < dim; ++e) {
          const auto channel = static_cast<int>(e);
          const auto byte = std::to_integer<int>(level_byte(sketch, page, t, channel));
          sum += weight[e] * (byte >> level_shift(channel) & 3);
        }
        mass.add(scale * (base + static_cast<double>(largest / 127) * sum));
      }
      scores[g][static_cast<int64_t>(i)] = static_cast<float>(mass.value());
    }
  }
}

void score_exact_pages(View<const float, 2> q, const AttentionRow& row, float scale,
                       View<float, 2> scores) {
  check_exact_scores(q, row, scores);
  const KvShape& shape = row.pool.shape;
  for (int64_t g = 0; g < q.shape(0); ++g) {
    for (size_t i = 0; i < row.slots.size(); ++i) {
      const std::byte* key = row.pool.keys(row.slots[i], row.kv_head);
      const int tokens = i + 1 == row.slots.size() ? row.last_tokens : shape.page;
      LogSum mass;
      for (int t = 0; t < tokens; ++t, key += row.pool.token_stride()) {
        double dot = 0;
        for (int e = 0; e < shape.head_dim; ++e) {
          dot += static_cast<double>(q[g][e]) * load_element(shape.dtype, key, e);
        }
        mass.add(scale * dot);
      }
      scores[g][static_cast<int64_t>(i)] = static_cast<float>(mass.value());
    }
  }
}

}  // namespace freekv::reference
