#include "engine/prefill.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/check.hpp"

namespace freekv {
namespace {

/// Runs one chunk through all layers; its hidden state is left in the workspace.
void prefill_chunk(StepContext step, SequenceCache& cache, std::span<const int32_t> tokens) {
  auto& [ctx, backend, model, policy, ws] = step;
  const ModelConfig& config = model.config();
  const auto n = static_cast<int64_t>(tokens.size());
  const int heads = config.query_heads, kv_heads = config.kv_heads;

  const auto x = ws.hidden(n), normed = ws.normed(n);
  const auto q = ws.q(n), k = ws.k(n), v = ws.v(n);
  const auto attended = ws.attention(n), gate = ws.gate(n), up = ws.up(n);

  const int64_t position = cache.tokens();
  const auto positions = ws.positions(n);
  std::iota(positions.begin(), positions.end(), position);
  const RopeTable rope = ws.rope_table(model.rope(), positions);

  backend.embed(ctx, model.weights().embedding, tokens, x);
  for (int layer = 0; layer < config.layers; ++layer) {
    const LayerWeights& w = model.weights().layers[static_cast<size_t>(layer)];
    backend.rms_norm(ctx, x, w.attention_norm, config.norm_eps, normed);
    backend.linear_prefill(ctx, normed, w.q, false, q);
    backend.linear_prefill(ctx, normed, w.k, false, k);
    backend.linear_prefill(ctx, normed, w.v, false, v);
    backend.rope(ctx, by_heads(q, heads), ws.row_indices(n), rope, config.rope_style);
    backend.rope(ctx, by_heads(k, kv_heads), ws.row_indices(n), rope, config.rope_style);

    const auto pages = cache.append_chunk(ctx, layer, by_heads(k, kv_heads), by_heads(v, kv_heads));
    backend.prefill_attention(ctx, {.q = by_heads(q, heads),
                                    .pool = pages.pool,
                                    .slots = pages.slots,
                                    .position = position,
                                    .scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim)),
                                    .out = by_heads(attended, heads)});
    backend.linear_prefill(ctx, attended, w.output, true, x);

    backend.rms_norm(ctx, x, w.ffn_norm, config.norm_eps, normed);
    backend.linear_prefill(ctx, normed, w.gate, false, gate);
    backend.linear_prefill(ctx, normed, w.up, false, up);
    backend.swiglu(ctx, gate, up, gate);
    backend.linear_prefill(ctx, gate, w.down, true, x);
  }
  cache.commit_chunk(n);
}

/// The same chunk taken from a sequence that has it. Values convert back to the bits they had.
void copy_chunk(StepContext step, SequenceCache& cache, const SequenceCache& from, int64_t n) {
  const int kv_heads = step.model.config().kv_heads;
  const auto k = by_heads(step.workspace.k(n), kv_heads);
  const auto v = by_heads(step.workspace.v(n), kv_heads);
  for (int layer = 0; layer < step.model.config().layers; ++layer) {
    from.read_tokens(step.ctx, layer, cache.tokens(), k, v);
    cache.append_chunk(step.ctx, layer, k, v);
  }
  cache.commit_chunk(n);
}

}  // namespace

View<const float, 2> prefill(StepContext step, const PolicySequence& sequence,
                             std::span<const int32_t> prompt, int64_t chunk,
                             const PrefillPrefix& prefix,
                             const std::function<bool(int64_t)>& proceed) {
  auto& [ctx, backend, model, policy, ws] = step;
  const ModelConfig& config = model.config();
  int64_t last = 0;  // row of the prompt's last token in its chunk
  for (auto done = static_cast<size_t>(sequence.cache.tokens()); done < prompt.size();) {
    const size_t n = std::min(static_cast<size_t>(chunk), prompt.size() - done);
    if (done + n <= static_cast<size_t>(prefix.tokens)) {
      copy_chunk(step, sequence.cache, *prefix.cache, static_cast<int64_t>(n));
    } else {
      prefill_chunk(step, sequence.cache, prompt.subspan(done, n));
    }
    done += n;
    last = static_cast<int64_t>(n) - 1;
    if (proceed && !proceed(static_cast<int64_t>(done))) {
      fail(ErrorCode::kCancelled, "stopped after {} of {} prompt tokens", done, prompt.size());
    }
  }
  sequence.cache.finish_prefill(ctx);
  policy.on_prefill(ctx, backend, sequence);

  const View<float, 2> state(ws.hidden(last + 1)[last].data(), 1, config.hidden);
  backend.rms_norm(ctx, state, model.weights().final_norm, config.norm_eps, ws.normed(1));
  backend.linear(ctx, ws.normed(1), model.weights().logits, false, ws.logits(1));
  return ws.logits(1);
}

}  // namespace freekv
