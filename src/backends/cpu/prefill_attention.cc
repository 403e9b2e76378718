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
#include "backends/cpu/prefill_tile_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

// Calls body(first, vectors) for the strips of nearly equal width that d columns are cut into: at
// most a tile wide, and each strip of a block's values lies together.
template <class Body>
HWY_INLINE void for_strips(size_t d, const Body& body) {
  const size_t lanes = hn::Lanes(DF());
  size_t left = d / lanes;
  size_t first = 0;
  for (size_t strips = (left + kTileVectors - 1) / kTileVectors; strips > 0; --strips) {
    const size_t vectors = (left + strips - 1) / strips;
    body(first, vectors);
    first += vectors * lanes;
    left -= vectors;
  }
}

// Values of tokens in strips [d / width][keys, width], from where their keys are and `to_values`
// bytes on; those that fill up the last panel of keys are zero, since zero weights are multiplied
// with them, and so is what d is padded with to `padded_d`. `row` is scratch of as many.
template <DType kType>
void load_values(const std::byte* const* keys, ptrdiff_t to_values, size_t count, size_t d,
                 size_t padded_d, float* row, float* values) {
  const DF df;
  const size_t lanes = hn::Lanes(df);
  std::fill_n(row, padded_d, 0.0f);
  for (size_t i = 0; i < count; ++i) {
    load_floats<kType>(keys[i] + to_values, 0, d, row);
    for_strips(padded_d, [&](size_t first, size_t vectors) {
      float* to = values + first * kBlockKeys + i * vectors * lanes;
      for (size_t e = 0; e < vectors * lanes; e += lanes) {
        hn::Store(hn::Load(df, row + first + e), df, to + e);
      }
    });
  }
  const size_t padding = round_up(count, panel_cols()) - count;
  for_strips(padded_d, [&](size_t first, size_t vectors) {
    std::fill_n(values + first * kBlockKeys + count * vectors * lanes, padding * vectors * lanes,
                0.0f);
  });
}

// sum [rows, d] += weights [rows, n] values [n, d], which lie in strips.
void add_values(size_t rows, const float* weights, const float* values, size_t n, float* sum,
                size_t d) {
  for_strips(d, [&](size_t first, size_t vectors) {
    const auto strip = [&](auto width) {
      if constexpr (width() <= kTileVectors) {
        gemm_strip<width()>(rows, weights, kBlockKeys, values + first * kBlockKeys,
                            width() * hn::Lanes(DF()), n, true, sum + first, d);
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
  });
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
  const size_t stride = round_up(d, hn::Lanes(df));  // of values and sums
  const ptrdiff_t to_values = p.pool.values(0, head) - p.pool.keys(0, head);
  const auto first_query = [&](int64_t token) {
    return (static_cast<size_t>(token) * static_cast<size_t>(p.q.shape(1)) +
            static_cast<size_t>(head) * group) *
           d;
  };
  std::fill_n(work.sum, round_up(rows, kTileRows) * stride, 0.0f);
  for_scores<kType>(
      p, head, begin, end, work,
      [&](const std::byte* const* keys, size_t count) {
        load_values<kType>(keys, to_values, count, d, stride, work.scores, work.values);
      },
      [&](size_t r, size_t sub, size_t n, int64_t, const auto& visible) {
        for (size_t s = 0; s < sub; ++s) {
          const float shrink = weigh_row(work.scores + s * kBlockKeys, visible(r + s), n,
                                         work.high[r + s], work.mass[r + s]);
          if (shrink != 1) scale_row(work.sum + (r + s) * stride, stride, shrink);
        }
        add_values(sub, work.scores, work.values, n, work.sum + r * stride, stride);
      });

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
