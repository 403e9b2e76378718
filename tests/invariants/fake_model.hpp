// What policies may ask of a model, answered from Inputs: no weights.
#pragma once

#include <array>

#include "inputs.hpp"
#include "policies/policy.hpp"

namespace freekv::invariants {

/// Predicts the queries that Inputs will give, not quite: each layer's input says something about
/// the next layer's query, but not all.
class FakeModel final : public ModelView {
 public:
  static constexpr int64_t kInput = 4;  // D

  FakeModel(int kv_heads, int group, int dim) : kv_heads_(kv_heads), group_(group), dim_(dim) {}

  /// Fills a layer's input x [D] of one sequence: the seed of its Inputs, in pieces that a float
  /// holds exactly.
  static void describe(uint64_t seed, View<float, 1> x);

  void project_query(ExecutionContext& ctx, Backend& backend, int layer, View<const float, 2> x,
                     std::span<const int64_t> positions, View<float, 2> q) const override;
  /// Interleaved pairs, base 10000.
  void rotate(int64_t position, int64_t length, bool back, View<float, 2> x) const override;

 private:
  int kv_heads_;
  int group_;
  int dim_;
};

}  // namespace freekv::invariants
