#include "engine/prefill.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/check.hpp"
#include "engine/finish_heads.hpp"

namespace freekv {
namespace {

/// Of q.k before the softmax.
float score_scale(const ModelConfig& config) {
  return 1.0f / std::sqrt(static_cast<float>(config.head_dim));
}

/// Runs one chunk, of a prompt after which the sequence has `length` tokens, through all layers;
/// its hidden state is left in the workspace. The policy sees the queries of tokens from position
/// `observed` on.
void prefill_chunk(StepContext step, const PolicySequence& sequence,
                   std::span<const int32_t> tokens, int64_t length, int64_t observed,
                   KeptQueries* keep) {
  auto& [ctx, backend, model, policy, ws] = step;
  SequenceCache& cache = sequence.cache;
  const ModelConfig& config = model.config();
  const auto n = static_cast<int64_t>(tokens.size());
  const int heads = config.query_heads, kv_heads = config.kv_heads;

  const auto x = ws.hidden(n), normed = ws.normed(n);
  const auto q = ws.q(n), k = ws.k(n), v = ws.v(n);
  const auto attended = ws.attention(n), gate = ws.gate(n), up = ws.up(n);

  const float scale = score_scale(config);
  const int64_t position = cache.tokens();
  const int64_t unseen = std::clamp<int64_t>(observed - position, 0, n);
  const auto positions = ws.positions(n);
  std::iota(positions.begin(), positions.end(), position);
  const RopeTable rope = ws.rope_table(model.rope(), positions, length);

  backend.embed(ctx, model.weights().embedding, tokens, x);
  for (int layer = 0; layer < config.layers; ++layer) {
    const LayerWeights& w = model.weights().layers[static_cast<size_t>(layer)];
    backend.rms_norm(ctx, x, w.attention_norm, config.norm_eps, normed);
    backend.linear_prefill(ctx, normed, w.q, false, q);
    backend.linear_prefill(ctx, normed, w.k, false, k);
    backend.linear_prefill(ctx, normed, w.v, false, v);
    finish_heads(step, w, rope, q, k, v);
    if (keep) keep->store(layer, position, by_heads(q, heads));

    const auto pages = cache.append_chunk(ctx, layer, by_heads(k, kv_heads), by_heads(v, kv_heads));
    backend.prefill_attention(ctx, {.q = by_heads(q, heads),
                                    .pool = pages.pool,
                                    .slots = pages.slots,
                                    .position = position,
                                    .scale = scale,
                                    .out = by_heads(attended, heads)});
    if (unseen < n) {
      policy.on_queries({ctx, backend, layer, scale, sequence,
                         View<const float, 3>(by_heads(q, heads)[unseen].data(), n - unseen, heads,
                                              config.head_dim),
                         position + unseen, pages.pool, pages.slots});
    }
    backend.linear_prefill(ctx, attended, w.output, true, x);
    if (w.output_bias.data()) backend.add_bias(ctx, w.output_bias, x);

    backend.rms_norm(ctx, x, w.ffn_norm, config.norm_eps, normed);
    backend.linear_prefill(ctx, normed, w.gate, false, gate);
    backend.linear_prefill(ctx, normed, w.up, false, up);
    backend.swiglu(ctx, gate, up, gate);
    backend.linear_prefill(ctx, gate, w.down, true, x);
  }
  cache.commit_chunk(n);
}

/// KV that is there, of the next `n` tokens, to every layer.
void append_known(StepContext step, SequenceCache& cache, const PrefillPrefix& prefix, int64_t n) {
  if (prefix.cache) return cache.append_from(step.ctx, *prefix.cache, n);
  // From a device. Values convert back to the bits they had.
  const int kv_heads = step.model.config().kv_heads;
  const auto k = by_heads(step.workspace.k(n), kv_heads);
  const auto v = by_heads(step.workspace.v(n), kv_heads);
  for (int layer = 0; layer < step.model.config().layers; ++layer) {
    prefix.read(layer, cache.tokens(), k, v);
    cache.append_chunk(step.ctx, layer, k, v);
  }
  cache.commit_chunk(n);
}

/// The same as computing them with KV that is there, of `n` tokens.
void take_chunk(StepContext step, const PolicySequence& sequence, const PrefillPrefix& prefix,
                int64_t n, int64_t observed) {
  SequenceCache& cache = sequence.cache;
  const int64_t first = std::max(observed, cache.tokens());
  append_known(step, cache, prefix, n);
  if (first >= cache.tokens()) return;
  for (int layer = 0; layer < step.model.config().layers; ++layer) {
    const auto pages = cache.prefill_pages(layer);
    step.policy.on_queries({step.ctx, step.backend, layer, score_scale(step.model.config()),
                            sequence, prefix.queries->of(layer, first, cache.tokens() - first),
                            first, pages.pool, pages.slots});
  }
}

}  // namespace

int64_t first_observed(const SequenceCache& cache, int64_t prompt) {
  return prompt - std::min(prompt, cache.needs().observed);
}

int64_t tokens_without_queries(const SequenceCache& cache, int64_t prompt) {
  return std::min(first_observed(cache, prompt), prompt - 1);
}

View<const float, 2> prefill(StepContext step, const PolicySequence& sequence,
                             std::span<const int32_t> prompt, int64_t chunk,
                             const PrefillPrefix& prefix, KeptQueries* keep,
                             const std::function<bool(int64_t)>& proceed) {
  auto& [ctx, backend, model, policy, ws] = step;
  const ModelConfig& config = model.config();
  int64_t last = 0;  // row of the prompt's last token in its chunk
  const auto size = static_cast<int64_t>(prompt.size());
  const int64_t observed = prefix.observed ? size : first_observed(sequence.cache, size);
  for (auto done = static_cast<size_t>(sequence.cache.tokens()); done < prompt.size();) {
    const bool taken = done < static_cast<size_t>(prefix.tokens);
    const size_t end = taken ? static_cast<size_t>(prefix.tokens) : prompt.size();
    const size_t n = std::min(static_cast<size_t>(chunk), end - done);
    if (taken) {
      take_chunk(step, sequence, prefix, static_cast<int64_t>(n), observed);
    } else {
      prefill_chunk(step, sequence, prompt.subspan(done, n), size, observed, keep);
    }
    done += n;
    last = static_cast<int64_t>(n) - 1;
    if (proceed && !proceed(static_cast<int64_t>(done))) {
      fail(ErrorCode::kCancelled, "stopped after {} of {} prompt tokens", done, prompt.size());
    }
  }
  sequence.cache.finish_prefill(ctx);
  policy.on_prefill(ctx, backend, sequence);
  sequence.cache.end_prefill();

  const View<float, 2> state(ws.hidden(last + 1)[last].data(), 1, config.hidden);
  backend.rms_norm(ctx, state, model.weights().final_norm, config.norm_eps, ws.normed(1));
  backend.linear(ctx, ws.normed(1), model.weights().logits, false, ws.logits(1));
  return ws.logits(1);
}

}  // namespace freekv
