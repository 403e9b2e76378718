// What happens to the projections of a step between the matrix products and the cache.
#pragma once

#include "engine/step_context.hpp"

namespace freekv {

/// Biases, per-head norms (where the layer has them) and rotation of q [n, H*d], k and v [n, M*d],
/// in place. Row t stands at row t of the table.
void finish_heads(StepContext step, const LayerWeights& layer, const RopeTable& rope,
                  View<float, 2> q, View<float, 2> k, View<float, 2> v);

}  // namespace freekv
