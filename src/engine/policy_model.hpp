// The model as policies see it (ModelView), over its weights and rotary frequencies.
#pragma once

#include <vector>

#include "model/model.hpp"
#include "policies/policy.hpp"

namespace freekv {

class PolicyModel final : public ModelView {
 public:
  /// For batches of at most `batch` sequences; `model` must outlive it.
  PolicyModel(const Model& model, int64_t batch);

  void project_query(ExecutionContext& ctx, Backend& backend, int layer, View<const float, 2> x,
                     std::span<const int64_t> positions, View<float, 2> q) const override;
  void rotate(int64_t position, int64_t length, bool back, View<float, 2> x) const override;

 private:
  const Model& model_;
  mutable std::vector<float> cos_, sin_;  // [batch, d/2], scratch of project_query()
  std::vector<int64_t> rows_;             // 0, 1, 2, ...
};

}  // namespace freekv
