// What happens to the projections of a step between the matrix products and the cache.
#pragma once

#include "engine/step_context.hpp"

namespace freekv {

/// Bias [heads * d] and per-head norm [d] (where there are any), then the rotation of x [n, heads *
/// d], in place. Row t stands at rows[t] of the table.
void finish_projection(ExecutionContext& ctx, Backend& backend, const ModelConfig& config,
                       View<const float, 1> bias, View<const float, 1> norm,
                       std::span<const int64_t> rows, const RopeTable& rope, View<float, 2> x);
/// Biases, per-head norms (where the layer has them) and rotation of q [n, H*d], k and v [n, M*d],
/// in place. Row t stands at row t of the table.
void finish_heads(StepContext step, const LayerWeights& layer, const RopeTable& rope,
                  View<float, 2> q, View<float, 2> k, View<float, 2> v);

}  // namespace freekv
