// What prefill attention and the mass of its pages have in common: scores, a block of keys at a
// time, and a row's step of the running softmax. Included once per SIMD target, so the guard
// toggles.
#if defined(FREEKV_BACKENDS_CPU_PREFILL_TILE_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef FREEKV_BACKENDS_CPU_PREFILL_TILE_INL_HPP_
#undef FREEKV_BACKENDS_CPU_PREFILL_TILE_INL_HPP_
#else
#define FREEKV_BACKENDS_CPU_PREFILL_TILE_INL_HPP_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <limits>
#include <span>

#include "backends/cpu/exp2_inl.hpp"
#include "backends/cpu/gemm_inl.hpp"
#include "backends/cpu/prefill_workspace.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

/// Lists where the keys of the tokens [first, first + count) of a head begin.
HWY_INLINE void list_keys(const KvPool& pool, std::span<const int32_t> slots, int head,
                          int64_t first, size_t count, const std::byte** keys) {
  const auto page = static_cast<size_t>(pool.shape.page);
  const size_t stride = pool.token_stride();
  size_t at = static_cast<size_t>(first) % page;
  for (size_t j = static_cast<size_t>(first) / page, i = 0; i < count; ++j, at = 0) {
    const std::byte* key = pool.keys(slots[j], head) + at * stride;
    for (; at < page && i < count; ++at, key += stride) keys[i++] = key;
  }
}

/// Keys [count] of d values as panels.
template <DType kType>
void pack_keys(const std::byte* const* keys, size_t count, size_t d, float* panels) {
  const size_t cols = panel_cols();
  for (size_t i = 0; i < count; i += cols) {
    const auto load = [&](size_t r, size_t e, size_t n, float* out) {
      load_floats<kType>(keys[i + r], e, n, out);
    };
    pack_panel(std::min(cols, count - i), d, load, panels + i * d);
  }
}

/// The query heads of one KV head of tokens [begin, end) as rows [rows, d] of `out`, scaled for
/// powers of two; rows up to `padded_rows` are zeros.
HWY_INLINE void load_queries(View<const float, 3> q, int head, size_t group, float scale,
                             int64_t begin, int64_t end, size_t padded_rows, float* out) {
  const auto d = static_cast<size_t>(q.shape(2));
  const size_t rows = static_cast<size_t>(end - begin) * group;
  for (int64_t t = begin; t < end; ++t) {
    const float* from = q[t][static_cast<int64_t>(head) * static_cast<int64_t>(group)].data();
    float* to = out + static_cast<size_t>(t - begin) * group * d;
    for (size_t i = 0; i < group * d; ++i) to[i] = from[i] * (scale * kLog2E);
  }
  std::fill(out + rows * d, out + padded_rows * d, 0.0f);
}

/// One row's step of the running softmax: scores [n] of which the first `visible` count become
/// weights relative to the new highest score, the others zeros. Returns by what all that was summed
/// before is to be multiplied, `mass` excepted, which is up to date.
HWY_INLINE float weigh_row(float* HWY_RESTRICT scores, size_t visible, size_t n, float& high,
                           float& mass) {
  const DF df;
  const size_t lanes = hn::Lanes(df);
  const size_t unit = 2 * lanes;  // two chains; panels are a multiple of it
  const size_t used = std::min(n, round_up(visible, unit));
  std::fill(scores + visible, scores + used, -std::numeric_limits<float>::infinity());
  std::fill(scores + used, scores + n, 0.0f);
  VF high0 = hn::Set(df, high);
  VF high1 = high0;
  for (size_t i = 0; i < used; i += unit) {
    high0 = hn::Max(high0, hn::Load(df, scores + i));
    high1 = hn::Max(high1, hn::Load(df, scores + i + lanes));
  }
  const VF highest = hn::MaxOfLanes(df, hn::Max(high0, high1));
  VF mass0 = hn::Zero(df);
  VF mass1 = hn::Zero(df);
  for (size_t i = 0; i < used; i += unit) {
    const VF w0 = exp2(df, hn::Sub(hn::Load(df, scores + i), highest));
    const VF w1 = exp2(df, hn::Sub(hn::Load(df, scores + i + lanes), highest));
    mass0 = hn::Add(mass0, w0);
    mass1 = hn::Add(mass1, w1);
    hn::Store(w0, df, scores + i);
    hn::Store(w1, df, scores + i + lanes);
  }
  const float now = hn::GetLane(highest);
  const float added = hn::GetLane(hn::SumOfLanes(df, hn::Add(mass0, mass1)));
  float shrink = 1;
  if (now > high) {
    shrink = hn::GetLane(exp2(df, hn::Sub(hn::Set(df, high), highest)));
    mass *= shrink;
    high = now;
  }
  mass += added;
  return shrink;
}

/// x [n] *= by, where n is a multiple of a vector's lanes.
HWY_INLINE void scale_row(float* HWY_RESTRICT x, size_t n, float by) {
  const DF df;
  for (size_t e = 0; e < n; e += hn::Lanes(df)) {
    hn::Store(hn::Mul(hn::Load(df, x + e), hn::Set(df, by)), df, x + e);
  }
}

/// Scores of the rows that tokens [begin, end) of a chunk and the query heads of KV head `head`
/// are, a block of keys at a time, in order from the context's first token on. `params` are those
/// of prefill attention or mass. Calls on_keys(keys, count) for each block, then for at most
/// kSubRows rows at a time on_scores(r, sub, n, first, visible): rows [r, r + sub) have their
/// scores with the n keys from `first` on in work.scores [sub, kBlockKeys]; visible(row) is how
/// many of these the row sees, and rows of padding see as many as the last. Sets high and mass to
/// begin with.
template <DType kType, class Params, class OnKeys, class OnScores>
void for_scores(const Params& params, int head, int64_t begin, int64_t end,
                const PrefillWorkspace& work, const OnKeys& on_keys, const OnScores& on_scores) {
  const auto d = static_cast<size_t>(params.pool.shape.head_dim);
  const auto group = static_cast<size_t>(params.q.shape(1) / params.pool.shape.heads);
  const size_t rows = static_cast<size_t>(end - begin) * group;
  const size_t padded_rows = round_up(rows, kTileRows);
  const size_t cols = panel_cols();
  const std::byte* keys[kBlockKeys];

  load_queries(params.q, head, group, params.scale, begin, end, padded_rows, work.q);
  std::fill_n(work.high, padded_rows, -std::numeric_limits<float>::infinity());
  std::fill_n(work.mass, padded_rows, 0.0f);

  const int64_t all = params.position + end;  // keys that the last token sees
  for (int64_t first = 0; first < all; first += static_cast<int64_t>(kBlockKeys)) {
    const auto count = static_cast<size_t>(std::min<int64_t>(kBlockKeys, all - first));
    list_keys(params.pool, params.slots, head, first, count, keys);
    pack_keys<kType>(keys, count, d, work.keys);
    on_keys(keys, count);
    const auto visible = [&](size_t r) {
      const int64_t token =
          params.position + begin + static_cast<int64_t>(std::min(r, rows - 1) / group);
      return static_cast<size_t>(std::clamp<int64_t>(token + 1 - first, 0, kBlockKeys));
    };
    for (size_t r = 0; r < padded_rows; r += kSubRows) {
      const size_t sub = std::min(kSubRows, padded_rows - r);
      const size_t n = round_up(visible(r + sub - 1), cols);
      if (n == 0) continue;
      for (size_t i = 0; i < n; i += cols) {
        gemm_strip<kTileVectors>(sub, work.q + r * d, d, work.keys + i * d, cols, d, false,
                                 work.scores + i, kBlockKeys);
      }
      on_scores(r, sub, n, first, visible);
    }
  }
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
