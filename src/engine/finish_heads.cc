#include "engine/finish_heads.hpp"

namespace freekv {

void finish_heads(StepContext step, const LayerWeights& layer, const RopeTable& rope,
                  View<float, 2> q, View<float, 2> k, View<float, 2> v) {
  auto& [ctx, backend, model, policy, ws] = step;
  const ModelConfig& config = model.config();
  const auto add_bias = [&](View<const float, 1> bias, View<float, 2> x) {
    if (bias.data()) backend.add_bias(ctx, bias, x);
  };
  const auto norm_and_rotate = [&](View<const float, 1> norm, View<float, 2> x, int heads) {
    const View<float, 3> each = by_heads(x, heads);
    if (norm.data()) {
      const View<float, 2> rows(x.data(), x.shape(0) * heads, config.head_dim);
      backend.rms_norm(ctx, rows, norm, config.norm_eps, rows);
    }
    backend.rope(ctx, each, ws.row_indices(x.shape(0)), rope, config.rope.style);
  };
  add_bias(layer.q_bias, q);
  add_bias(layer.k_bias, k);
  add_bias(layer.v_bias, v);
  norm_and_rotate(layer.q_norm, q, config.query_heads);
  norm_and_rotate(layer.k_norm, k, config.kv_heads);
}

}  // namespace freekv
