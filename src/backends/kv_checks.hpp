// What every backend asks of the arguments of KV operations, so that a wrong slot table is an
// Error and not a write into another sequence.
#pragma once

#include <span>

#include "backends/backend.hpp"
#include "core/check.hpp"

namespace freekv {

inline void check_slot(const KvPool& pool, int32_t slot) {
  check_argument(slot >= 0 && slot < pool.slots, "slot is {}, must be below {}", slot, pool.slots);
}

inline void check_append(View<const float, 3> k, View<const float, 3> v, const KvPool& pool,
                         std::span<const int32_t> slots, int first) {
  const KvShape& shape = pool.shape;
  const int64_t tokens = k.shape(0);
  check_argument(v.shape(0) == tokens && k.shape(1) == shape.heads && v.shape(1) == shape.heads &&
                     k.shape(2) == shape.head_dim && v.shape(2) == shape.head_dim,
                 "k is [{}, {}, {}] and v [{}, {}, {}], must both be [tokens, {}, {}]", k.shape(0),
                 k.shape(1), k.shape(2), v.shape(0), v.shape(1), v.shape(2), shape.heads,
                 shape.head_dim);
  check_argument(first >= 0 && first < shape.page,
                 "first is {}, must be below the page's {} tokens", first, shape.page);
  check_argument(tokens == 0 || first + tokens <= static_cast<int64_t>(slots.size()) * shape.page,
                 "{} tokens from offset {} do not fit {} pages of {}", tokens, first, slots.size(),
                 shape.page);
  for (const int32_t slot : slots) check_slot(pool, slot);
}

inline void check_copy(const KvPool& from, int32_t from_slot, const KvPool& to, int32_t to_slot,
                       int head) {
  check_argument(from.shape == to.shape,
                 "pools differ: heads {} / {}, head_dim {} / {}, page {} / {}, dtype {} / {}",
                 from.shape.heads, to.shape.heads, from.shape.head_dim, to.shape.head_dim,
                 from.shape.page, to.shape.page, dtype_name(from.shape.dtype),
                 dtype_name(to.shape.dtype));
  check_argument(head >= 0 && head < from.shape.heads, "head is {}, must be below {}", head,
                 from.shape.heads);
  check_slot(from, from_slot);
  check_slot(to, to_slot);
}

/// Tokens a row attends to.
inline int64_t attended_tokens(const AttentionRow& row) {
  if (row.slots.empty()) return 0;
  return static_cast<int64_t>(row.slots.size() - 1) * row.pool.shape.page + row.last_tokens;
}

/// All but the slots themselves: a row lists thousands, and whoever built the list checked them.
inline void check_decode(View<const float, 3> q, std::span<const AttentionRow> rows,
                         View<float, 3> out, View<float, 2> log_mass) {
  check_argument(q.shape(0) == static_cast<int64_t>(rows.size()) && out.shape(0) == q.shape(0) &&
                     out.shape(1) == q.shape(1) && out.shape(2) == q.shape(2),
                 "q is [{}, {}, {}] and out [{}, {}, {}], must be equal with {} rows", q.shape(0),
                 q.shape(1), q.shape(2), out.shape(0), out.shape(1), out.shape(2), rows.size());
  check_argument(
      !log_mass.data() || (log_mass.shape(0) == q.shape(0) && log_mass.shape(1) == q.shape(1)),
      "log_mass is [{}, {}], must be [{}, {}] as q", log_mass.shape(0), log_mass.shape(1),
      q.shape(0), q.shape(1));
  for (const AttentionRow& row : rows) {
    const KvShape& shape = row.pool.shape;
    check_argument(shape.head_dim == q.shape(2), "the pool's head_dim is {}, q has {}",
                   shape.head_dim, q.shape(2));
    check_argument(row.kv_head >= 0 && row.kv_head < shape.heads, "kv_head is {}, must be below {}",
                   row.kv_head, shape.heads);
    check_argument(row.slots.empty() || (row.last_tokens >= 1 && row.last_tokens <= shape.page),
                   "last_tokens is {}, must be 1 to {}", row.last_tokens, shape.page);
  }
}

}  // namespace freekv
