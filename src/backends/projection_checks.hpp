// What every backend asks of the shapes of projections, elementwise work and prefill attention.
#pragma once

#include <span>

#include "backends/backend.hpp"
#include "core/check.hpp"

namespace freekv {

inline void check_embed(const WeightView& table, std::span<const int32_t> ids, View<float, 2> out) {
  check_argument(out.shape(0) == static_cast<int64_t>(ids.size()) && out.shape(1) == table.cols,
                 "out is [{}, {}], must be [{}, {}]", out.shape(0), out.shape(1), ids.size(),
                 table.cols);
}

inline void check_rms_norm(View<const float, 2> x, View<const float, 1> weight,
                           View<float, 2> out) {
  check_argument(
      x.shape(0) == out.shape(0) && x.shape(1) == out.shape(1) && x.shape(1) == weight.shape(0),
      "x is [{}, {}], weight [{}], out [{}, {}], must agree", x.shape(0), x.shape(1),
      weight.shape(0), out.shape(0), out.shape(1));
}

inline void check_linear(View<const float, 2> x, const WeightView& weight, View<float, 2> out) {
  check_argument(
      x.shape(1) == weight.cols && out.shape(1) == weight.rows && x.shape(0) == out.shape(0),
      "x is [{}, {}], weight [{}, {}], out [{}, {}], must be [T, K], [N, K], [T, N]", x.shape(0),
      x.shape(1), weight.rows, weight.cols, out.shape(0), out.shape(1));
}

inline void check_add_bias(View<const float, 1> bias, View<float, 2> x) {
  check_argument(bias.shape(0) == x.shape(1), "bias is [{}], x [{}, {}], must be as wide",
                 bias.shape(0), x.shape(0), x.shape(1));
}

inline void check_rope(View<float, 3> x, std::span<const int64_t> positions,
                       const RopeTable& table) {
  const int64_t half = table.cos.shape(1);
  check_argument(x.shape(2) == 2 * half && table.sin.shape(1) == half &&
                     table.sin.shape(0) == table.cos.shape(0),
                 "head_dim is {}, cos [{}, {}], sin [{}, {}], must be twice as wide as both",
                 x.shape(2), table.cos.shape(0), half, table.sin.shape(0), table.sin.shape(1));
  check_argument(static_cast<int64_t>(positions.size()) == x.shape(0),
                 "{} positions, must be one for each of {} rows", positions.size(), x.shape(0));
  for (const int64_t position : positions) {
    check_argument(position >= 0 && position < table.cos.shape(0),
                   "position is {}, must be below {}", position, table.cos.shape(0));
  }
}

inline void check_swiglu(View<const float, 2> gate, View<const float, 2> up, View<float, 2> out) {
  check_argument(gate.shape(0) == up.shape(0) && gate.shape(1) == up.shape(1) &&
                     gate.shape(0) == out.shape(0) && gate.shape(1) == out.shape(1),
                 "gate is [{}, {}], up [{}, {}], out [{}, {}], must be equal", gate.shape(0),
                 gate.shape(1), up.shape(0), up.shape(1), out.shape(0), out.shape(1));
}

/// Queries of a chunk, and the pages that they see.
inline void check_chunk(View<const float, 3> q, const KvPool& pool, std::span<const int32_t> slots,
                        int64_t position) {
  const KvShape& shape = pool.shape;
  check_argument(shape.heads >= 1 && q.shape(1) >= 1 && q.shape(1) % shape.heads == 0,
                 "{} query heads, must be a multiple of {} KV heads", q.shape(1), shape.heads);
  check_argument(q.shape(2) == shape.head_dim, "q has head_dim {}, KV {}", q.shape(2),
                 shape.head_dim);
  const int64_t capacity = static_cast<int64_t>(slots.size()) * shape.page;
  check_argument(position >= 0 && position + q.shape(0) <= capacity,
                 "{} tokens from position {} do not fit {} pages of {}", q.shape(0), position,
                 slots.size(), shape.page);
  for (const int32_t slot : slots) {
    check_argument(slot >= 0 && slot < pool.slots, "slot is {}, must be below {}", slot,
                   pool.slots);
  }
}

inline void check_prefill_attention(const PrefillAttention& p) {
  check_chunk(p.q, p.pool, p.slots, p.position);
  check_argument(p.out.shape(0) == p.q.shape(0) && p.out.shape(1) == p.q.shape(1) &&
                     p.out.shape(2) == p.q.shape(2),
                 "q is [{}, {}, {}] and out [{}, {}, {}], must be equal", p.q.shape(0),
                 p.q.shape(1), p.q.shape(2), p.out.shape(0), p.out.shape(1), p.out.shape(2));
}

/// Entries of mass that the queries see.
inline int64_t mass_entries(const PrefillMass& p) {
  return (p.position + p.q.shape(0) + p.unit - 1) / p.unit;
}

inline void check_prefill_mass(const PrefillMass& p) {
  check_chunk(p.q, p.pool, p.slots, p.position);
  check_argument(p.unit == 1 || p.unit == p.pool.shape.page,
                 "the mass is of {} tokens each, must be 1 or the page's {}", p.unit,
                 p.pool.shape.page);
  check_argument(p.mass.shape(0) == p.pool.shape.heads && p.mass.shape(1) >= mass_entries(p),
                 "mass is [{}, {}], must have {} KV heads and {} entries", p.mass.shape(0),
                 p.mass.shape(1), p.pool.shape.heads, mass_entries(p));
}

}  // namespace freekv
