// FreeKV's decode step (algorithm.md, section 4). The method's own decisions are in `policy`.
#include "engine/decode_step.hpp"

#include <cmath>

#include "engine/finish_heads.hpp"

namespace freekv {

View<const float, 2> decode_step(StepContext step, std::span<const PolicySequence> sequences,
                                 std::span<const int32_t> tokens) {
  auto& [ctx, backend, model, policy, ws] = step;
  const ModelConfig& config = model.config();
  const auto n = static_cast<int64_t>(sequences.size());
  const int heads = config.query_heads, kv_heads = config.kv_heads, dim = config.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));

  const auto x = ws.hidden(n), normed = ws.normed(n);
  const auto q = ws.q(n), k = ws.k(n), v = ws.v(n);
  const auto attended = ws.attention(n), gate = ws.gate(n), up = ws.up(n);

  const auto positions = ws.positions(n);
  for (size_t s = 0; s < sequences.size(); ++s) positions[s] = sequences[s].cache.tokens();
  const RopeTable rope = ws.rope_table(model.rope(), positions);

  backend.embed(ctx, model.weights().embedding, tokens, x);

  for (int layer = 0; layer < config.layers; ++layer) {
    const LayerWeights& w = model.weights().layers[static_cast<size_t>(layer)];
    // Rows of retrieval are (sequence, KV head): q [R, G, d].
    const int64_t rows = n * kv_heads;
    LayerStep retrieval{ctx,
                        backend,
                        layer,
                        scale,
                        sequences,
                        View<const float, 3>(q.data(), rows, heads / kv_heads, dim),
                        ws.attention_rows(rows),
                        normed,
                        View<float, 3>(attended.data(), rows, heads / kv_heads, dim),
                        ws.log_mass(rows, heads / kv_heads)};
    policy.begin_layer(retrieval);

    backend.rms_norm(ctx, x, w.attention_norm, config.norm_eps, normed);
    backend.linear(ctx, normed, w.q, false, q);
    backend.linear(ctx, normed, w.k, false, k);
    backend.linear(ctx, normed, w.v, false, v);
    finish_heads(step, w, rope, q, k, v);
    for (int64_t s = 0; s < n; ++s) {
      sequences[static_cast<size_t>(s)].cache.append_token(ctx, layer, by_heads(k, kv_heads)[s],
                                                           by_heads(v, kv_heads)[s]);
    }

    policy.pages_for(retrieval);
    backend.decode_attention(ctx, retrieval.q, retrieval.rows, scale, retrieval.attended,
                             retrieval.log_mass);
    policy.after_attention(retrieval);
    backend.linear(ctx, attended, w.output, true, x);
    if (w.output_bias.data()) backend.add_bias(ctx, w.output_bias, x);

    backend.rms_norm(ctx, x, w.ffn_norm, config.norm_eps, normed);
    backend.linear(ctx, normed, w.gate, false, gate);
    backend.linear(ctx, normed, w.up, false, up);
    backend.swiglu(ctx, gate, up, gate);
    backend.linear(ctx, gate, w.down, true, x);
  }

  for (const PolicySequence& sequence : sequences) sequence.cache.commit_token(ctx);
  backend.rms_norm(ctx, x, model.weights().final_norm, config.norm_eps, normed);
  backend.linear(ctx, normed, model.weights().logits, false, ws.logits(n));
  return ws.logits(n);
}

}  // namespace freekv
