#include "backends/reference/selection.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backends/selection_checks.hpp"

namespace freekv::reference {
namespace {

constexpr int kBlock = BoxSketchView::kBlockPages;

double softmax_mass(View<const float, 1> scores, float scale, float highest) {
  double mass = 0;
  for (int64_t j = 0; j < scores.shape(0); ++j) {
    mass += std::exp(scale * (static_cast<double>(scores[j]) - highest));
  }
  return mass;
}

// Whether value a is chosen before value b; equal values are left to their indices.
bool larger(float a, float b) {
  if (std::isnan(a)) return false;
  return std::isnan(b) || a > b;
}

}  // namespace

void build_box_sketch(const KvPool& pool, int32_t slot, int head, const BoxSketchView& sketch,
                      int64_t page) {
  check_sketch(pool, slot, head, sketch, page);
  const DType dtype = pool.shape.dtype;
  const int tokens = pool.shape.page;
  const std::byte* keys = pool.keys(slot, head);
  const size_t stride = pool.token_stride();
  const auto key = [&](int t, int e) {
    return load_element(dtype, keys + static_cast<size_t>(t) * stride, e);
  };
  for (int e = 0; e < pool.shape.head_dim; ++e) {
    if (sketch.kind == BoxKind::kMean) {
      double sum = 0;
      for (int t = 0; t < tokens; ++t) sum += key(t, e);
      store_element(sketch.dtype, sketch.hi(page / kBlock, e), page % kBlock,
                    static_cast<float>(sum / tokens));
      continue;
    }
    float hi = key(0, e);
    float lo = hi;
    for (int t = 1; t < tokens; ++t) {
      hi = std::max(hi, key(t, e));
      lo = std::min(lo, key(t, e));
    }
    if (sketch.kind == BoxKind::kCuboid) {
      const double centre = (static_cast<double>(hi) + lo) / 2;
      double radius = 0;
      for (int t = 0; t < tokens; ++t) radius += std::abs(key(t, e) - centre);
      radius /= tokens;
      hi = static_cast<float>(centre + radius);
      lo = static_cast<float>(centre - radius);
    }
    store_element(sketch.dtype, sketch.hi(page / kBlock, e), page % kBlock, hi);
    store_element(sketch.dtype, sketch.lo(page / kBlock, e), page % kBlock, lo);
  }
}

void score_box_pages(View<const float, 2> q, const BoxSketchView& sketch, int64_t first,
                     View<float, 2> scores) {
  check_scores(q, sketch, first, scores);
  for (int64_t g = 0; g < q.shape(0); ++g) {
    for (int64_t i = 0; i < scores.shape(1); ++i) {
      const int64_t page = first + i;
      double score = 0;
      for (int e = 0; e < sketch.head_dim; ++e) {
        const double x = q[g][e];
        const float hi = load_element(sketch.dtype, sketch.hi(page / kBlock, e), page % kBlock);
        const float lo = load_element(sketch.dtype, sketch.lo(page / kBlock, e), page % kBlock);
        score += std::max(x * hi, x * lo);
      }
      scores[g][i] = static_cast<float>(score);
    }
  }
}

void pool_scores(Pooling pooling, float scale, View<float, 2> scores, View<float, 1> pooled) {
  check_pooling(scores, pooled);
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  const int64_t group = scores.shape(0);
  const int64_t n = scores.shape(1);
  const bool softmax = pooling == Pooling::kMeanSoftmax || pooling == Pooling::kMaxSoftmax;
  const bool mean = pooling == Pooling::kMeanSoftmax || pooling == Pooling::kMeanScore;
  if (n == 0) return;
  for (int64_t g = 0; softmax && g < group; ++g) {
    const View<float, 1> row = scores[g];
    const float highest = *std::max_element(row.data(), row.data() + n);
    const double mass = softmax_mass(row, scale, highest);
    for (int64_t j = 0; j < n; ++j) {
      row[j] = static_cast<float>(std::exp(scale * (static_cast<double>(row[j]) - highest)));
      const auto share = static_cast<float>(row[j] / mass);
      if (g == 0) pooled[j] = mean ? 0 : kLowest;
      pooled[j] = mean ? pooled[j] + share / static_cast<float>(group) : std::max(pooled[j], share);
    }
  }
  if (softmax) return;
  for (int64_t j = 0; j < n; ++j) {
    double sum = 0;
    float highest = kLowest;
    for (int64_t g = 0; g < group; ++g) {
      sum += scores[g][j];
      highest = std::max(highest, scores[g][j]);
    }
    pooled[j] = mean ? static_cast<float>(sum / static_cast<double>(group)) : highest;
  }
}

void top_k(View<const float, 1> values, std::span<int32_t> out) {
  check_top_k(values, out);
  // `out` holds the best so far, best first; insertion keeps equal values in index order.
  size_t filled = 0;
  for (int64_t i = 0; i < values.shape(0); ++i) {
    size_t at = filled;
    while (at > 0 && larger(values[i], values[out[at - 1]])) --at;
    if (at == out.size()) continue;
    filled = std::min(filled + 1, out.size());
    std::copy_backward(out.begin() + static_cast<ptrdiff_t>(at),
                       out.begin() + static_cast<ptrdiff_t>(filled) - 1,
                       out.begin() + static_cast<ptrdiff_t>(filled));
    out[at] = static_cast<int32_t>(i);
  }
  std::sort(out.begin(), out.end());
}

void mean_cosine(ExecutionContext&, View<const float, 3> q, View<const float, 3> previous,
                 View<float, 1> out) {
  check_cosine(q, previous, out);
  for (int64_t r = 0; r < q.shape(0); ++r) {
    double sum = 0;
    for (int64_t g = 0; g < q.shape(1); ++g) {
      double dot = 0;
      double a2 = 0;
      double b2 = 0;
      for (int64_t e = 0; e < q.shape(2); ++e) {
        const double a = q[r][g][e];
        const double b = previous[r][g][e];
        dot += a * b;
        a2 += a * a;
        b2 += b * b;
      }
      // Equal vectors may give 1 + rounding, which would pass a tau that nothing should pass.
      if (a2 > 0 && b2 > 0) sum += std::clamp(dot / (std::sqrt(a2) * std::sqrt(b2)), -1.0, 1.0);
    }
    out[r] = static_cast<float>(sum / static_cast<double>(q.shape(1)));
  }
}

}  // namespace freekv::reference
