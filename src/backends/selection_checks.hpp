// What every backend asks of the arguments of selection.
#pragma once

#include <span>

#include "backends/kv_checks.hpp"

namespace freekv {

inline void check_sketch(const KvPool& pool, int32_t slot, int head, const BoxSketchView& sketch,
                         int64_t page) {
  check_argument(sketch.head_dim == pool.shape.head_dim,
                 "the sketch's head_dim is {}, the pool's {}", sketch.head_dim,
                 pool.shape.head_dim);
  check_argument(head >= 0 && head < pool.shape.heads, "head is {}, must be below {}", head,
                 pool.shape.heads);
  check_argument(page >= 0, "page is {}, must not be negative", page);
  check_slot(pool, slot);
}

inline void check_scores(View<const float, 2> q, const BoxSketchView& sketch, int64_t first,
                         View<float, 2> scores) {
  check_argument(q.shape(1) == sketch.head_dim, "q has head_dim {}, the sketch {}", q.shape(1),
                 sketch.head_dim);
  check_argument(q.shape(0) == scores.shape(0), "q has {} heads, scores {}", q.shape(0),
                 scores.shape(0));
  check_argument(first >= 0, "the first page is {}, must not be negative", first);
}

inline void check_pooling(View<const float, 2> scores, View<const float, 1> pooled) {
  check_argument(scores.shape(0) >= 1 && scores.shape(1) == pooled.shape(0),
                 "scores are [{}, {}] and pooled [{}], must be [heads, n] and [n]", scores.shape(0),
                 scores.shape(1), pooled.shape(0));
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
