// Exact attention mass of pages, with the scores and the running softmax of decode attention.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backends/cpu/selection.hpp"
#include "backends/selection_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/exact_scores.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/decode_tile_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

/// A block of query heads, scaled to base two; heads that pad it to 2^n are zeros.
struct QueryBlock {
  alignas(64) float q[kMaxBlockHeads * kMaxHeadDim];
  size_t padded_dim;

  QueryBlock(View<const float, 2> queries, int64_t first, size_t heads, float scale) {
    const auto dim = static_cast<size_t>(queries.shape(1));
    padded_dim = (dim + kMaxLanes - 1) / kMaxLanes * kMaxLanes;
    std::fill(std::begin(q), std::end(q), 0.0f);
    for (size_t h = 0; h < heads; ++h) {
      const float* from = queries[first + static_cast<int64_t>(h)].data();
      for (size_t e = 0; e < dim; ++e) q[h * padded_dim + e] = from[e] * scale * kLog2E;
    }
  }
};

/// Lists a page's tokens from `first` on, as a tile reads them.
size_t list_tokens(const AttentionRow& row, size_t page, size_t first, size_t tokens,
                   const std::byte** keys) {
  const size_t count = std::min(kTileTokens, tokens - first);
  const size_t stride = row.pool.token_stride();
  const std::byte* key = row.pool.keys(row.slots[page], row.kv_head) + first * stride;
  for (size_t t = 0; t < count; ++t, key += stride) keys[t] = key;
  std::fill(keys + count, keys + kTileRows, keys[count - 1]);
  return count;
}

template <DType kType, size_t kHeads>
void score_block(const QueryBlock& block, const AttentionRow& row, size_t heads, int64_t g,
                 View<float, 2> scores) {
  const std::byte* keys[kTileRows];
  alignas(64) float weights[kTileRows * 8];
  alignas(64) float highest[kMaxLanes], mass[kMaxLanes], shrink[kMaxLanes];
  HeadBlockState state{highest, mass, nullptr};
  Tile tile{};
  tile.keys = keys;
  tile.dim = static_cast<size_t>(row.pool.shape.head_dim);
  tile.padded_dim = block.padded_dim;
  for (size_t page = 0; page < row.slots.size(); ++page) {
    const auto tokens =
        static_cast<size_t>(page + 1 == row.slots.size() ? row.last_tokens : row.pool.shape.page);
    std::fill(highest, highest + kMaxLanes, -std::numeric_limits<float>::infinity());
    std::fill(mass, mass + kMaxLanes, 0.0f);
    for (size_t first = 0; first < tokens; first += kTileTokens) {
      tile.tokens = list_tokens(row, page, first, tokens, keys);
      for (size_t t = 0; t < tile.tokens; t += kLanes / kHeads) {
        hn::Store(score_tokens<kType, kHeads>(tile, t, block.q), DF(), weights + t * kHeads);
      }
      softmax_tile<kHeads>(weights, tile.tokens, state, shrink);
    }
    for (size_t h = 0; h < heads; ++h) {
      float sum = 0;
      for (size_t i = h; i < kLanes; i += kHeads) sum += mass[i];
      scores[g + static_cast<int64_t>(h)][static_cast<int64_t>(page)] =
          (highest[h] + std::log2(sum)) / kLog2E;
    }
  }
}

template <DType kType>
void score_exact(View<const float, 2> q, const AttentionRow& row, float scale,
                 View<float, 2> scores) {
  for (int64_t g = 0; g < q.shape(0);) {
    const size_t heads = std::min(kMaxBlockHeads, static_cast<size_t>(q.shape(0) - g));
    const QueryBlock block(q, g, heads, scale);
    const auto run = [&](auto stride) {
      constexpr size_t kHeads = decltype(stride)::value;
      if constexpr (kHeads <= kMaxBlockHeads) {
        score_block<kType, kHeads>(block, row, heads, g, scores);
      }
    };
    switch (std::bit_ceil(heads)) {
      case 1:
        run(std::integral_constant<size_t, 1>{});
        break;
      case 2:
        run(std::integral_constant<size_t, 2>{});
        break;
      case 4:
        run(std::integral_constant<size_t, 4>{});
        break;
      default:
        run(std::integral_constant<size_t, 8>{});
    }
    g += static_cast<int64_t>(heads);
  }
}

void score_exact_any(View<const float, 2> q, const AttentionRow& row, float scale,
                     View<float, 2> scores) {
  dispatch_kv_dtype(row.pool.shape.dtype,
                    [&](auto type) { score_exact<decltype(type)::value>(q, row, scale, scores); });
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(score_exact_any);

void score_exact_pages(View<const float, 2> q, const AttentionRow& row, float scale,
                       View<float, 2> scores) {
  check_exact_scores(q, row, scores);
  check_argument(q.shape(1) % 8 == 0 && q.shape(1) <= kMaxHeadDim,
                 "head_dim is {}, must be a multiple of 8 and at most {}", q.shape(1), kMaxHeadDim);
  HWY_DYNAMIC_DISPATCH(score_exact_any)(q, row, scale, scores);
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
