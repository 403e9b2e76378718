#include "engine/policy_model.hpp"

#include <array>
#include <numeric>

#include "core/check.hpp"
#include "engine/finish_heads.hpp"

namespace freekv {

PolicyModel::PolicyModel(const Model& model, int64_t batch) : model_(model) {
  cos_.resize(static_cast<size_t>(batch * model.rope().pairs()));
  sin_.resize(cos_.size());
  rows_.resize(static_cast<size_t>(batch));
  std::iota(rows_.begin(), rows_.end(), 0);
}

void PolicyModel::project_query(ExecutionContext& ctx, Backend& backend, int layer,
                                View<const float, 2> x, std::span<const int64_t> positions,
                                View<float, 2> q) const {
  const ModelConfig& config = model_.config();
  const int64_t n = x.shape(0), pairs = model_.rope().pairs();
  check_internal(n <= static_cast<int64_t>(rows_.size()), "{} rows, there is room for {}", n,
                 rows_.size());
  const View<float, 2> cos(cos_.data(), n, pairs), sin(sin_.data(), n, pairs);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t position = positions[static_cast<size_t>(i)];
    model_.rope().fill(position, position + 1, cos[i], sin[i]);
  }
  const LayerWeights& weights = model_.weights().layers[static_cast<size_t>(layer)];
  backend.linear(ctx, x, weights.q, false, q);
  finish_projection(ctx, backend, config, weights.q_bias, weights.q_norm,
                    std::span(rows_).first(static_cast<size_t>(n)), {cos, sin}, q);
}

void PolicyModel::rotate(int64_t position, int64_t length, bool back, View<float, 2> x) const {
  std::array<float, 1024> cos_sin;
  const int64_t pairs = model_.rope().pairs();
  check_internal(2 * pairs <= static_cast<int64_t>(cos_sin.size()),
                 "head dimension is {}, must be at most {}", 2 * pairs, cos_sin.size());
  const View<float, 1> cos(cos_sin.data(), pairs), sin(cos_sin.data() + pairs, pairs);
  model_.rope().fill(position, length, cos, sin);
  if (back) {
    for (int64_t i = 0; i < pairs; ++i) {
      // Some models lengthen what they turn: undone by the square of the length.
      const float unit = 1 / (cos[i] * cos[i] + sin[i] * sin[i]);
      cos[i] *= unit;
      sin[i] *= -unit;
    }
  }
  const bool halves = model_.config().rope.style == RopeStyle::kHalves;
  const int64_t next = halves ? 1 : 2, other = halves ? pairs : 1;  // of a pair
  for (int64_t h = 0; h < x.shape(0); ++h) {
    float* a = x[h].data();
    for (int64_t i = 0; i < pairs; ++i, a += next) {
      const float first = *a, second = a[other];
      *a = first * cos[i] - second * sin[i];
      a[other] = first * sin[i] + second * cos[i];
    }
  }
}

}  // namespace freekv
