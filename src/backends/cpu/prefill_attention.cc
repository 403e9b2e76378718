#include "backends/cpu/prefill_attention.hpp"

#include <algorithm>
#include <atomic>
#include <limits>

#include "backends/cpu/prefill_workspace.hpp"
#include "backends/projection_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/prefill_attention.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/exp2_inl.hpp"
#include "backends/cpu/gemm_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

// Keys [first, first + count) of a head as panels, values as rows; values that fill up the last
// panel are zero, since zero weights are multiplied with them.
template <DType kType>
void load_keys_and_values(const PrefillAttention& p, int head, int64_t first, size_t count,
                          const PrefillWorkspace& work, size_t value_stride) {
  const KvPool& pool = p.pool;
  const size_t stride = pool.token_stride();
  const auto d = static_cast<size_t>(pool.shape.head_dim);
  const auto slot = [&](int64_t token) {
    return p.slots[static_cast<size_t>(token / pool.shape.page)];
  };
  const auto offset = [&](int64_t token) {
    return static_cast<size_t>(token % pool.shape.page) * stride;
  };
  const size_t cols = panel_cols();
  for (size_t i = 0; i < count; i += cols) {
    const auto load = [&](size_t r, size_t e, size_t n, float* out) {
      const int64_t token = first + static_cast<int64_t>(i + r);
      load_floats<kType>(pool.keys(slot(token), head) + offset(token), e, n, out);
    };
    pack_panel(std::min(cols, count - i), d, load, work.keys + i * d);
  }
  for (size_t i = 0; i < count; ++i) {
    const int64_t token = first + static_cast<int64_t>(i);
    load_floats<kType>(pool.values(slot(token), head) + offset(token), 0, d,
                       work.values + i * value_stride);
  }
  std::fill(work.values + count * value_stride, work.values + round_up(count, cols) * value_stride,
            0.0f);
}

// One row's step of the running softmax: scores [n] of which the first `visible` count become
// weights; what was summed before is rescaled to the new highest score.
HWY_INLINE void softmax_row(float* HWY_RESTRICT scores, size_t visible, size_t n, float& high,
                            float& mass, float* HWY_RESTRICT sum, size_t d) {
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
  if (now > high) {
    const VF shrink = exp2(df, hn::Sub(hn::Set(df, high), highest));
    for (size_t e = 0; e < d; e += lanes) {
      hn::Store(hn::Mul(hn::Load(df, sum + e), shrink), df, sum + e);
    }
    mass *= hn::GetLane(shrink);
    high = now;
  }
  mass += added;
}

// sum [rows, d] += weights [rows, n] values [n, d], in strips of columns of nearly equal width.
void add_values(size_t rows, const float* weights, const float* values, size_t n, float* sum,
                size_t d) {
  constexpr size_t kStretch = 128;  // values of a strip stay in the first-level cache
  const size_t lanes = hn::Lanes(DF());
  size_t left = d / lanes;
  size_t strips = (left + kTileVectors - 1) / kTileVectors;
  for (size_t e = 0; strips > 0; --strips) {
    const size_t vectors = (left + strips - 1) / strips;
    for (size_t i = 0; i < n; i += kStretch) {
      const auto strip = [&](auto width) {
        if constexpr (width() <= kTileVectors) {
          gemm_strip<width()>(rows, weights + i, kBlockKeys, values + i * d + e, d,
                              std::min(kStretch, n - i), true, sum + e, d);
        }
      };
      switch (vectors) {
        case 1:
          strip(std::integral_constant<size_t, 1>());
          break;
        case 2:
          strip(std::integral_constant<size_t, 2>());
          break;
        case 3:
          strip(std::integral_constant<size_t, 3>());
          break;
        default:
          strip(std::integral_constant<size_t, 4>());
      }
    }
    e += vectors * lanes;
    left -= vectors;
  }
}

// Attention of tokens [begin, end) of the chunk for the query heads of one KV head. A row's result
// depends on its own query and the keys alone: blocks of keys start at multiples of kBlockKeys of
// the context, every sum runs in the order of the keys, and keys a row does not see add zeros.
template <DType kType>
void attend_tokens(const PrefillAttention& p, int head, int64_t begin, int64_t end,
                   const PrefillWorkspace& work) {
  const DF df;
  const auto d = static_cast<size_t>(p.pool.shape.head_dim);
  const auto group = static_cast<size_t>(p.q.shape(1) / p.pool.shape.heads);
  const size_t rows = static_cast<size_t>(end - begin) * group;
  const size_t padded_rows = round_up(rows, kTileRows);
  const size_t stride = round_up(d, hn::Lanes(df));  // of values and sums
  const size_t cols = panel_cols();
  const auto first_query = [&](int64_t token) {
    return (static_cast<size_t>(token) * static_cast<size_t>(p.q.shape(1)) +
            static_cast<size_t>(head) * group) *
           d;
  };

  for (size_t r = 0; r < rows; r += group) {
    const float* from = p.q.data() + first_query(begin + static_cast<int64_t>(r / group));
    for (size_t i = 0; i < group * d; ++i) work.q[r * d + i] = from[i] * (p.scale * kLog2E);
  }
  std::fill(work.q + rows * d, work.q + padded_rows * d, 0.0f);
  std::fill_n(work.sum, padded_rows * stride, 0.0f);
  std::fill_n(work.high, padded_rows, -std::numeric_limits<float>::infinity());
  std::fill_n(work.mass, padded_rows, 0.0f);
  // The padding of the last dimension is multiplied with weights, but never read.
  std::fill_n(work.values, kBlockKeys * stride, 0.0f);

  const int64_t all = p.position + end;  // keys that the last token sees
  for (int64_t first = 0; first < all; first += static_cast<int64_t>(kBlockKeys)) {
    const auto count = static_cast<size_t>(std::min<int64_t>(kBlockKeys, all - first));
    load_keys_and_values<kType>(p, head, first, count, work, stride);
    // Keys of this block that row r sees; rows of padding see as many as the last.
    const auto visible = [&](size_t r) {
      const int64_t token =
          p.position + begin + static_cast<int64_t>(std::min(r, rows - 1) / group);
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
      for (size_t s = 0; s < sub; ++s) {
        softmax_row(work.scores + s * kBlockKeys, visible(r + s), n, work.high[r + s],
                    work.mass[r + s], work.sum + (r + s) * stride, stride);
      }
      add_values(sub, work.scores, work.values, n, work.sum + r * stride, stride);
    }
  }

  for (size_t r = 0; r < rows; ++r) {
    const float inverse = 1.0f / work.mass[r];
    float* to = p.out.data() + first_query(begin + static_cast<int64_t>(r / group)) + r % group * d;
    for (size_t e = 0; e < d; ++e) to[e] = work.sum[r * stride + e] * inverse;
  }
}

void attend_block(const PrefillAttention& p, int head, int64_t begin, int64_t end,
                  const PrefillWorkspace& work) {
  dispatch_kv_dtype(p.pool.shape.dtype, [&](auto type) {
    attend_tokens<decltype(type)::value>(p, head, begin, end, work);
  });
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(attend_block);

void PrefillAttentionScratch::reserve(ExecutionContext& ctx, const BackendLimits& limits) {
  if (limits.kv_heads == 0) return;  // a backend that only projects
  const auto group = static_cast<size_t>(limits.heads / limits.kv_heads);
  memory = Buffer(static_cast<size_t>(ctx.threads()) * sizeof(float) *
                  PrefillWorkspace::floats(group, static_cast<size_t>(limits.head_dim)));
}

void prefill_attention(ExecutionContext& ctx, PrefillAttentionScratch& scratch,
                       const PrefillAttention& params) {
  check_prefill_attention(params);
  const int64_t tokens = params.q.shape(0);
  const int kv_heads = params.pool.shape.heads;
  const auto group = static_cast<size_t>(params.q.shape(1) / kv_heads);
  const auto head_dim = static_cast<size_t>(params.pool.shape.head_dim);
  const size_t floats = PrefillWorkspace::floats(group, head_dim);
  const std::span<float> memory = scratch.memory.as<float>();
  check_internal(floats * static_cast<size_t>(ctx.threads()) <= memory.size(),
                 "prefill attention of {} x {} needs {} floats per worker, reserved {} in all",
                 group, head_dim, floats, memory.size());

  // Blocks as large as the workspace holds, but enough of them for every worker to have a few.
  const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(kBlockRows / group));
  const int64_t fair = (tokens * kv_heads + 4 * ctx.threads() - 1) / (4 * ctx.threads());
  const int64_t at_once = std::clamp<int64_t>(fair, std::min<int64_t>(most, 8), most);
  const int64_t blocks = (tokens + at_once - 1) / at_once;
  std::atomic<int64_t> next{0};
  const auto work = [&](int worker) {
    const PrefillWorkspace workspace(memory.data() + static_cast<size_t>(worker) * floats, group,
                                     head_dim);
    for (int64_t i = next.fetch_add(1); i < blocks * kv_heads; i = next.fetch_add(1)) {
      // Later blocks see more keys: they go first, so that the last ones to finish are short.
      const int64_t block = blocks - 1 - i / kv_heads;
      HWY_DYNAMIC_DISPATCH(attend_block)
      (params, static_cast<int>(i % kv_heads), block * at_once,
       std::min(tokens, (block + 1) * at_once), workspace);
    }
  };
  if (blocks * kv_heads == 1) {
    work(0);
  } else {
    ctx.pool().run(work);
  }
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
