// Kernels of box sketches (Quest, section 3.2; ArkVale, section 4). Included once per SIMD target,
// so the guard toggles.
#if defined(FREEKV_BACKENDS_CPU_BOX_SKETCH_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef FREEKV_BACKENDS_CPU_BOX_SKETCH_INL_HPP_
#undef FREEKV_BACKENDS_CPU_BOX_SKETCH_INL_HPP_
#else
#define FREEKV_BACKENDS_CPU_BOX_SKETCH_INL_HPP_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "backends/backend.hpp"
#include "backends/cpu/load_inl.hpp"
#include "backends/cpu/selection.hpp"
#include "backends/cpu/store_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

inline constexpr size_t kPages = BoxSketchView::kBlockPages;

// Not the widest vectors: head_dim is a multiple of 8, so that these leave no rest.
using DBuild = hn::CappedTag<float, 8>;
using VBuild = hn::Vec<DBuild>;

/// Writes the bounds of consecutive dimensions to their places, a column of the block.
template <DType kType>
HWY_INLINE void store_column(VBuild bounds, std::byte* first, size_t lane) {
  constexpr size_t kBytes = kType == DType::kF32 ? 4 : 2;
  const DBuild d;
  std::byte values[hn::MaxLanes(d) * kBytes];
  store_values<kType>(d, bounds, values, 0);
  for (size_t i = 0; i < hn::Lanes(d); ++i) {
    std::memcpy(first + (i * kPages + lane) * kBytes, values + i * kBytes, kBytes);
  }
}

template <DType kType>
void build(const KvPool& pool, int32_t slot, int head, const BoxSketchView& sketch, int64_t page) {
  const DBuild d;
  const int tokens = pool.shape.page;
  const std::byte* keys = pool.keys(slot, head);
  const size_t stride = pool.token_stride();
  const int64_t block = page / static_cast<int64_t>(kPages);
  const auto lane = static_cast<size_t>(page) % kPages;
  for (int e = 0; e < pool.shape.head_dim; e += static_cast<int>(hn::Lanes(d))) {
    const auto key = [&](int t) HWY_ATTR {
      return Block<kType>(keys + static_cast<size_t>(t) * stride, 0)
          .load(d, static_cast<size_t>(e));
    };
    const VBuild count = hn::Set(d, static_cast<float>(tokens));
    if (sketch.kind == BoxKind::kMean) {
      VBuild sum = key(0);
      for (int t = 1; t < tokens; ++t) sum = hn::Add(sum, key(t));
      store_column<kType>(hn::Div(sum, count), sketch.hi(block, e), lane);
      continue;
    }
    VBuild hi = key(0);
    VBuild lo = hi;
    for (int t = 1; t < tokens; ++t) {
      hi = hn::Max(hi, key(t));
      lo = hn::Min(lo, key(t));
    }
    if (sketch.kind == BoxKind::kCuboid) {
      // Halved before they are added: the sum of two large bounds could overflow.
      const VBuild half = hn::Set(d, 0.5f);
      const VBuild centre = hn::Add(hn::Mul(half, hi), hn::Mul(half, lo));
      VBuild sum = hn::Zero(d);
      for (int t = 0; t < tokens; ++t) sum = hn::Add(sum, hn::Abs(hn::Sub(key(t), centre)));
      const VBuild radius = hn::Div(sum, count);
      hi = hn::Add(centre, radius);
      lo = hn::Sub(centre, radius);
    }
    store_column<kType>(hi, sketch.hi(block, e), lane);
    store_column<kType>(lo, sketch.lo(block, e), lane);
  }
}

/// q split by sign, [dim][heads]: max(q * hi, q * lo) = max(q, 0) * hi + min(q, 0) * lo, as
/// hi >= lo. Where there is one bound all of q is in `positive`.
template <size_t kHeads>
struct SignedQueries {
  std::array<float, kMaxHeadDim * kHeads> positive;
  std::array<float, kMaxHeadDim * kHeads> negative;
};

/// Scores of the 16 pages of a block, sums running over dimensions with pages in the lanes. `next`
/// is the block scored after it.
template <DType kType, size_t kBounds, size_t kHeads>
HWY_INLINE void score_block(const SignedQueries<kHeads>& q, const std::byte* hi,
                            const std::byte* lo, const std::byte* next, size_t dim,
                            float (&scores)[kHeads][kPages]) {
  const DF d;
  constexpr size_t kLanes = hn::MaxLanes(DF());
  constexpr size_t kVectors = kPages / kLanes;
  // Two sums per score where registers allow, as one alone waits for its own latency.
  constexpr size_t kChains = kVectors == 1 ? 2 : 1;
  VF sums[kHeads][kVectors][kChains];
  HWY_UNROLL(8)
  for (size_t g = 0; g < kHeads; ++g) {
    HWY_UNROLL(16)
    for (size_t i = 0; i < kVectors; ++i) {
      HWY_UNROLL(2)
      for (size_t c = 0; c < kChains; ++c) sums[g][i][c] = hn::Zero(d);
    }
  }
  constexpr size_t kRow = kBounds * kPages * (kType == DType::kF32 ? 4 : 2);
  for (size_t e = 0; e < dim; ++e) {
    // A block can be a page of memory, at whose end the hardware's prefetcher stops.
    for (size_t at = 0; at < kRow; at += 64) hwy::Prefetch(next + e * kRow + at);
    // All vectors of pages with one query's value before the next value is read: the reads of
    // values would cost more than the products otherwise.
    VF upper[kVectors];
    for (size_t i = 0; i < kVectors; ++i) {
      upper[i] = Block<kType>(hi, 0).load(d, e * kPages + i * kLanes);
    }
    HWY_UNROLL(8)
    for (size_t g = 0; g < kHeads; ++g) {
      const VF value = hn::Set(d, q.positive[e * kHeads + g]);
      HWY_UNROLL(16)
      for (size_t i = 0; i < kVectors; ++i) {
        sums[g][i][0] = hn::MulAdd(value, upper[i], sums[g][i][0]);
      }
    }
    if constexpr (kBounds == 1) continue;
    VF lower[kVectors];
    for (size_t i = 0; i < kVectors; ++i) {
      lower[i] = Block<kType>(lo, 0).load(d, e * kPages + i * kLanes);
    }
    HWY_UNROLL(8)
    for (size_t g = 0; g < kHeads; ++g) {
      const VF value = hn::Set(d, q.negative[e * kHeads + g]);
      HWY_UNROLL(16)
      for (size_t i = 0; i < kVectors; ++i) {
        VF& other = sums[g][i][kChains - 1];
        other = hn::MulAdd(value, lower[i], other);
      }
    }
  }
  HWY_UNROLL(8)
  for (size_t g = 0; g < kHeads; ++g) {
    HWY_UNROLL(16)
    for (size_t i = 0; i < kVectors; ++i) {
      VF sum = sums[g][i][0];
      if constexpr (kChains == 2) sum = hn::Add(sum, sums[g][i][1]);
      hn::StoreU(sum, d, scores[g] + i * kLanes);
    }
  }
}

/// Scores for the query heads [g, g + kHeads).
template <DType kType, size_t kBounds, size_t kHeads>
void score_heads(View<const float, 2> q, const BoxSketchView& sketch, int64_t first,
                 View<float, 2> scores, int64_t g) {
  const auto dim = static_cast<size_t>(sketch.head_dim);
  SignedQueries<kHeads> signs;
  for (size_t h = 0; h < kHeads; ++h) {
    const float* row = q[g + static_cast<int64_t>(h)].data();
    for (size_t e = 0; e < dim; ++e) {
      signs.positive[e * kHeads + h] = kBounds == 1 ? row[e] : std::max(row[e], 0.0f);
      signs.negative[e * kHeads + h] = std::min(row[e], 0.0f);
    }
  }
  constexpr auto kStep = static_cast<int64_t>(kPages);
  const int64_t end = first + scores.shape(1);
  for (int64_t page = first / kStep * kStep; page < end; page += kStep) {
    float block[kHeads][kPages];
    const std::byte* hi = sketch.hi(page / kStep, 0);
    score_block<kType, kBounds, kHeads>(signs, hi, sketch.lo(page / kStep, 0),
                                        hi + sketch.block_bytes(), dim, block);
    const int64_t from = std::max(page, first);
    const int64_t to = std::min(page + kStep, end);
    for (size_t h = 0; h < kHeads; ++h) {
      std::copy(block[h] + (from - page), block[h] + (to - page),
                scores[g + static_cast<int64_t>(h)].data() + (from - first));
    }
  }
}

template <DType kType, size_t kBounds>
void score(View<const float, 2> q, const BoxSketchView& sketch, int64_t first,
           View<float, 2> scores) {
  // 16 sums of a vector with 32 registers, 8 with 16.
  constexpr int64_t kMost = std::max<int64_t>(1, static_cast<int64_t>(hn::MaxLanes(DF())) / 2);
  int64_t g = 0;
  const auto take = [&](auto heads) {
    constexpr size_t kHeads = decltype(heads)::value;
    if constexpr (static_cast<int64_t>(kHeads) <= kMost) {
      for (; g + static_cast<int64_t>(kHeads) <= q.shape(0); g += static_cast<int64_t>(kHeads)) {
        score_heads<kType, kBounds, kHeads>(q, sketch, first, scores, g);
      }
    }
  };
  take(std::integral_constant<size_t, 8>{});
  take(std::integral_constant<size_t, 4>{});
  take(std::integral_constant<size_t, 3>{});
  take(std::integral_constant<size_t, 2>{});
  take(std::integral_constant<size_t, 1>{});
}

void build_any(const KvPool& pool, int32_t slot, int head, const BoxSketchView& sketch,
               int64_t page) {
  dispatch_kv_dtype(sketch.dtype, [&](auto type) {
    build<decltype(type)::value>(pool, slot, head, sketch, page);
  });
}

void score_any(View<const float, 2> q, const BoxSketchView& sketch, int64_t first,
               View<float, 2> scores) {
  dispatch_kv_dtype(sketch.dtype, [&](auto type) {
    if (sketch.bounds() == 1) {
      score<decltype(type)::value, 1>(q, sketch, first, scores);
    } else {
      score<decltype(type)::value, 2>(q, sketch, first, scores);
    }
  });
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
