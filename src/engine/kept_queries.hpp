// The queries of a prompt's last tokens, kept for sequences that take its KV over and whose
// policies look at them: a policy then costs what it does with the queries, not reading the prompt
// again.
#pragma once

#include <cstdint>

#include "core/view.hpp"
#include "device/buffer.hpp"

namespace freekv {

class KeptQueries {
 public:
  /// Takes address space for `tokens`; memory follows as they are stored.
  KeptQueries(int layers, int query_heads, int head_dim, int64_t tokens);

  /// Forgets all; the last tokens of a prompt of `size` tokens are kept from now on, as far as they
  /// are computed, which the tokens from `computed` on are.
  void begin(int64_t size, int64_t computed);
  /// Keeps of q [T, H, d], the queries of tokens from `position` on, those that are to be kept.
  void store(int layer, int64_t position, View<const float, 3> q);

  /// The first token whose queries are kept; those of all after it are too.
  int64_t first() const { return first_; }
  /// Those of n tokens from `position` on, [n, H, d].
  View<const float, 3> of(int layer, int64_t position, int64_t n) const;

 private:
  size_t offset(int layer, int64_t position) const;

  int64_t heads_;
  int64_t dim_;
  int64_t tokens_;
  int64_t first_ = 0;
  Buffer memory_;  // [layers][tokens][H][d], of tokens from first_ on
};

}  // namespace freekv
