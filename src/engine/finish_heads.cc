#include "engine/finish_heads.hpp"

namespace freekv {

void finish_projection(ExecutionContext& ctx, Backend& backend, const ModelConfig& config,
                       View<const float, 1> bias, View<const float, 1> norm,
                       std::span<const int64_t> rows, const RopeTable& rope, View<float, 2> x) {
  const int64_t heads = x.shape(1) / config.head_dim;
  if (bias.data()) backend.add_bias(ctx, bias, x);
  if (norm.data()) {
    const View<float, 2> each(x.data(), x.shape(0) * heads, config.head_dim);
    backend.rms_norm(ctx, each, norm, config.norm_eps, each);
  }
  backend.rope(ctx, by_heads(x, heads), rows, rope, config.rope.style);
}

void finish_heads(StepContext step, const LayerWeights& layer, const RopeTable& rope,
                  View<float, 2> q, View<float, 2> k, View<float, 2> v) {
  auto& [ctx, backend, model, policy, ws] = step;
  const ModelConfig& config = model.config();
  const auto rows = ws.row_indices(q.shape(0));
  finish_projection(ctx, backend, config, layer.q_bias, layer.q_norm, rows, rope, q);
  finish_projection(ctx, backend, config, layer.k_bias, layer.k_norm, rows, rope, k);
  if (layer.v_bias.data()) backend.add_bias(ctx, layer.v_bias, v);
}

}  // namespace freekv
