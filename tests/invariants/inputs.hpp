// Queries, keys and values without a model: any (seed, layer, token) gives the same numbers, in
// whatever order they are asked for.
#pragma once

#include <cstdint>

#include "core/view.hpp"

namespace freekv::invariants {

/// Queries follow a topic that changes every few tokens, at other times in other heads, with noise
/// that puts cosines of consecutive queries on both sides of 0.8: some heads drift, some do not.
/// Keys share a direction within a run of tokens, so that pages differ in how well they match.
class Inputs {
 public:
  /// `alike` consecutive tokens have the same key and value.
  explicit Inputs(uint64_t seed, int64_t alike = 1) : seed_(seed), alike_(alike) {}

  uint64_t seed() const { return seed_; }
  /// q [M, G, d].
  void query(int layer, int64_t token, View<float, 3> q) const;
  /// k, v [M, d].
  void key_value(int layer, int64_t token, View<float, 2> k, View<float, 2> v) const;

 private:
  uint64_t seed_;
  int64_t alike_;
};

}  // namespace freekv::invariants
