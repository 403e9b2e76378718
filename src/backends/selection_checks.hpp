// What every backend asks of the arguments of selection.
#pragma once

#include <span>

#include "backends/kv_checks.hpp"

namespace freekv {

template <typename SketchView>
void check_sketch(const KvPool& pool, int32_t slot, int head, const SketchView& sketch,
                  int64_t page) {
  check_argument(sketch.head_dim == pool.shape.head_dim,
                 "the sketch's head_dim is {}, the pool's {}", sketch.head_dim,
                 pool.shape.head_dim);
  check_argument(head >= 0 && head < pool.shape.heads, "head is {}, must be below {}", head,
                 pool.shape.heads);
  check_argument(page >= 0, "page is {}, must not be negative", page);
  check_slot(pool, slot);
}

inline void check_scored(View<const float, 2> q, int head_dim, View<const float, 2> scores) {
  check_argument(q.shape(1) == head_dim, "q has head_dim {}, the pages {}", q.shape(1), head_dim);
  check_argument(q.shape(0) == scores.shape(0), "q has {} heads, scores {}", q.shape(0),
                 scores.shape(0));
}

inline void check_scores(View<const float, 2> q, const BoxSketchView& sketch, int64_t first,
                         View<const float, 2> scores) {
  check_scored(q, sketch.head_dim, scores);
  check_argument(first >= 0, "the first page is {}, must not be negative", first);
}

inline void check_key2(const KvPool& pool, int32_t slot, int head, const Key2SketchView& sketch,
                       int64_t page) {
  check_sketch(pool, slot, head, sketch, page);
  check_argument(sketch.page == pool.shape.page, "the sketch's page is {} tokens, the pool's {}",
                 sketch.page, pool.shape.page);
}

/// Pages asked for, one score of each head for each.
inline void check_key2_scores(View<const float, 2> q, const Key2SketchView& sketch,
                              std::span<const int32_t> pages, View<const float, 2> scores) {
  check_scored(q, sketch.head_dim, scores);
  check_argument(static_cast<int64_t>(pages.size()) == scores.shape(1),
                 "{} pages are scored, there is room for {}", pages.size(), scores.shape(1));
  for (const int32_t page : pages) {
    check_argument(page >= 0, "page is {}, must not be negative", page);
  }
}

inline void check_exact_scores(View<const float, 2> q, const AttentionRow& row,
                               View<const float, 2> scores) {
  check_scored(q, row.pool.shape.head_dim, scores);
  check_argument(static_cast<int64_t>(row.slots.size()) == scores.shape(1),
                 "{} pages are scored, there is room for {}", row.slots.size(), scores.shape(1));
  check_argument(row.kv_head >= 0 && row.kv_head < row.pool.shape.heads,
                 "kv_head is {}, must be below {}", row.kv_head, row.pool.shape.heads);
  check_argument(
      row.slots.empty() || (row.last_tokens >= 1 && row.last_tokens <= row.pool.shape.page),
      "last_tokens is {}, must be 1 to {}", row.last_tokens, row.pool.shape.page);
}

inline void check_pooling(View<const float, 2> scores, View<const float, 1> pooled) {
  check_argument(scores.shape(0) >= 1 && scores.shape(1) == pooled.shape(0),
                 "scores are [{}, {}] and pooled [{}], must be [heads, n] and [n]", scores.shape(0),
                 scores.shape(1), pooled.shape(0));
}

inline void check_mean_values(View<const float, 2> weights, const MeanValuesView& means,
                              int64_t first, View<const float, 2> out) {
  check_argument(weights.shape(0) == out.shape(0), "weights are of {} heads, out of {}",
                 weights.shape(0), out.shape(0));
  check_argument(means.head_dim == out.shape(1), "the means' head_dim is {}, out's {}",
                 means.head_dim, out.shape(1));
  check_argument(first >= 0, "the first page is {}, must not be negative", first);
}

inline void check_top_k(View<const float, 1> values, std::span<const int32_t> out) {
  check_argument(static_cast<int64_t>(out.size()) <= values.shape(0),
                 "{} values are asked for, there are {}", out.size(), values.shape(0));
}

inline void check_cosine(View<const float, 3> q, View<const float, 3> previous,
                         View<const float, 1> out) {
  check_argument(
      q.shape(0) == previous.shape(0) && q.shape(1) == previous.shape(1) &&
          q.shape(2) == previous.shape(2) && q.shape(0) == out.shape(0) && q.shape(1) >= 1,
      "q is [{}, {}, {}], previous [{}, {}, {}], out [{}], must agree", q.shape(0), q.shape(1),
      q.shape(2), previous.shape(0), previous.shape(1), previous.shape(2), out.shape(0));
}

}  // namespace freekv
