#include "backends/cpu/prefill_mass.hpp"

#include <algorithm>
#include <atomic>
#include <limits>

#include "backends/cpu/prefill_workspace.hpp"
#include "backends/projection_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/prefill_mass.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/prefill_tile_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

// Adds weights of the keys [first, first + n) to the shares of their pages, or of `unit` tokens.
HWY_INLINE void add_shares(const float* weights, int64_t first, size_t n, size_t unit,
                           float* shares) {
  if (unit == 1) {
    std::copy_n(weights, n, shares + first);  // nothing was there
    return;
  }
  const DF df;
  const size_t lanes = hn::Lanes(df);
  for (size_t i = 0; i < n;) {
    const size_t token = static_cast<size_t>(first) + i;
    const size_t end = std::min(n, i + unit - token % unit);
    VF sums = hn::Zero(df);
    for (; i + lanes <= end; i += lanes) sums = hn::Add(sums, hn::LoadU(df, weights + i));
    float sum = hn::GetLane(hn::SumOfLanes(df, sums));
    for (; i < end; ++i) sum += weights[i];
    shares[token / unit] += sum;
  }
}

// The shares [rows, stride] of pages, or tokens, in the attention of tokens [begin, end) of the
// chunk, for the query heads of one KV head. A row's depend on its own query and the keys alone, as
// in prefill attention.
template <DType kType>
void share_tokens(const PrefillMass& p, int head, int64_t begin, int64_t end,
                  const PrefillWorkspace& work, float* shares, size_t stride) {
  const auto group = static_cast<size_t>(p.q.shape(1) / p.pool.shape.heads);
  const auto unit = static_cast<size_t>(p.unit);
  const size_t rows = static_cast<size_t>(end - begin) * group;
  std::fill_n(shares, rows * stride, 0.0f);
  for_scores<kType>(
      p, head, begin, end, work, [](const std::byte* const*, size_t) {},
      [&](size_t r, size_t sub, size_t n, int64_t first, const auto& visible) {
        for (size_t row = r; row < std::min(r + sub, rows); ++row) {
          float* weights = work.scores + (row - r) * kBlockKeys;
          float* of_row = shares + row * stride;
          const size_t seen = visible(row);
          if (seen == 0) continue;
          const float shrink = weigh_row(weights, seen, n, work.high[row], work.mass[row]);
          if (shrink != 1) scale_row(of_row, stride, shrink);
          add_shares(weights, first, seen, unit, of_row);
        }
      });
  for (size_t row = 0; row < rows; ++row) {
    scale_row(shares + row * stride, stride, 1.0f / work.mass[row]);
  }
}

void share_block(const PrefillMass& p, int head, int64_t begin, int64_t end,
                 const PrefillWorkspace& work, float* shares, size_t stride) {
  dispatch_kv_dtype(p.pool.shape.dtype, [&](auto type) {
    share_tokens<decltype(type)::value>(p, head, begin, end, work, shares, stride);
  });
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(share_block);

namespace {

// A row of shares, rounded up to whole vectors.
size_t row_stride(int64_t entries) { return round_up(static_cast<size_t>(entries), kMaxLanes); }

// mass[begin..end] += shares [rows, stride] / group, row after row.
void add_rows(const float* shares, size_t rows, size_t stride, double weight, int64_t begin,
              int64_t end, double* mass) {
  for (size_t r = 0; r < rows; ++r) {
    const float* row = shares + r * stride;
    for (int64_t j = begin; j < end; ++j) mass[j] += weight * static_cast<double>(row[j]);
  }
}

}  // namespace

void PrefillMassScratch::reserve(ExecutionContext& ctx, const BackendLimits& limits) {
  if (limits.kv_heads == 0) return;  // a backend that only projects
  const auto group = static_cast<size_t>(limits.heads / limits.kv_heads);
  const size_t rows =
      PrefillWorkspace::rows(group) * static_cast<size_t>(std::max(ctx.threads(), limits.kv_heads));
  blocks = Buffer(static_cast<size_t>(ctx.threads()) * sizeof(float) *
                  PrefillWorkspace::floats(group, static_cast<size_t>(limits.head_dim)));
  // Of single tokens fewer rows at a time; those who ask for them show few.
  constexpr size_t kTokens = 8;
  const size_t of_tokens =
      kTokens * static_cast<size_t>(limits.heads) * row_stride(limits.max_pages * limits.page);
  shares = Buffer(std::max(rows * row_stride(limits.max_pages), of_tokens) * sizeof(float));
}

void prefill_mass(ExecutionContext& ctx, PrefillMassScratch& scratch, const PrefillMass& params) {
  check_prefill_mass(params);
  const int64_t tokens = params.q.shape(0);
  const int64_t kv_heads = params.pool.shape.heads, heads = params.q.shape(1);
  const int64_t group = heads / kv_heads;
  const int64_t entries = mass_entries(params);
  const size_t stride = row_stride(entries);
  const auto head_dim = static_cast<size_t>(params.pool.shape.head_dim);
  const size_t floats = PrefillWorkspace::floats(static_cast<size_t>(group), head_dim);
  const std::span<float> blocks = scratch.blocks.as<float>();
  const std::span<float> shares = scratch.shares.as<float>();
  check_internal(floats * static_cast<size_t>(ctx.threads()) <= blocks.size() &&
                     static_cast<size_t>(heads) * stride <= shares.size(),
                 "mass of {} entries for {} heads of {} needs more than was reserved", entries,
                 heads, head_dim);
  // Tokens whose shares there is room for, and how many of these a worker takes at a time.
  const auto room = static_cast<int64_t>(shares.size() / stride) / heads;
  const int64_t at_once = std::clamp<int64_t>(static_cast<int64_t>(kBlockRows) / group, 1, room);
  for (int64_t first = 0; first < tokens; first += room) {
    const int64_t end = std::min(tokens, first + room);
    const int64_t cuts = (end - first + at_once - 1) / at_once;
    const auto of_head = [&](int64_t head) {
      return shares.data() + static_cast<size_t>(head * (end - first) * group) * stride;
    };
    std::atomic<int64_t> next{0};
    ctx.pool().run([&](int worker) {
      const PrefillWorkspace workspace(blocks.data() + static_cast<size_t>(worker) * floats,
                                       static_cast<size_t>(group), head_dim);
      for (int64_t i = next.fetch_add(1); i < cuts * kv_heads; i = next.fetch_add(1)) {
        const int64_t head = i % kv_heads, begin = i / kv_heads * at_once;
        HWY_DYNAMIC_DISPATCH(share_block)
        (params, static_cast<int>(head), first + begin, std::min(end, first + begin + at_once),
         workspace, of_head(head) + static_cast<size_t>(begin * group) * stride, stride);
      }
    });
    ctx.pool().parallel_for(
        kv_heads * entries, entries / 2 + 1, [&](int64_t from, int64_t to, int) {
          for (int64_t head = from / entries; head * entries < to; ++head) {
            add_rows(of_head(head), static_cast<size_t>((end - first) * group), stride,
                     1.0 / static_cast<double>(group), std::max<int64_t>(0, from - head * entries),
                     std::min(entries, to - head * entries), params.mass[head].data());
          }
        });
  }
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
