// The decode step (algorithm.md, section 4) as it is captured: a main branch, and side branches
// that select and recall for the next step behind it.
#include <algorithm>
#include <cmath>

#include "backends/cuda/correction.hpp"
#include "backends/cuda/decode_attention.hpp"
#include "backends/cuda/decoder_impl.hpp"
#include "backends/cuda/elementwise.hpp"
#include "backends/cuda/recall.hpp"

namespace freekv::cuda {

void Decoder::Impl::queue_step(int32_t n) {
  batch.n = n;
  queued_products = 0;
  embed({weights.embedding, ids, x.as<float>(), n, shape.hidden}, main);
  for (int32_t layer = 0; layer < shape.layers; ++layer) queue_layer(layer);
  linear({.x = x.as<float>(),
          .weight = weights.logits,
          .out = logits.as<float>(),
          .n = shape.vocab,
          .k = shape.hidden,
          .norm = weights.final_norm,
          .norm_eps = shape.norm_eps});
  for (int32_t layer = std::max(0, shape.layers - kSides); layer < shape.layers; ++layer) {
    if (!rule.speculative || !retrieves(layer)) continue;
    Side& side = sides[layer % kSides];
    side.done.record(side.stream);
    side.done.hold(main);
  }
  if (rule.slow || rule.selects) turn_over({batch, shape.kv, map}, main);
  advance({batch.sequence, tokens.as<int64_t>(), n, taken.as<unsigned>(),
           static_cast<int32_t>(products)},
          main);
}

void Decoder::Impl::queue_layer(int32_t layer) {
  const DecoderLayer& w = weights.layers[static_cast<size_t>(layer)];
  const int32_t hidden = shape.hidden, attended_width = heads() * shape.kv.head_dim;
  const SelectParams select = selection(layer);

  linear({.x = x.as<float>(),
          .weight = w.qkv,
          .bias = w.qkv_bias,
          .out = qkv.as<float>(),
          .n = qkv_width(),
          .k = hidden,
          .norm = w.attention_norm,
          .norm_eps = shape.norm_eps});
  rope_append({.batch = batch,
               .kv = shape.kv,
               .map = map,
               .layer = layer,
               .qkv = qkv.as<float>(),
               .q_norm = w.q_norm,
               .k_norm = w.k_norm,
               .norm_eps = shape.norm_eps,
               .frequencies = weights.frequencies,
               .rope_scale = shape.rope_scale,
               .rope = shape.rope,
               // Above 1 every head selects with this step's query.
               .tau = tests_drift() ? rule.tau : 2.0f,
               .forced_drift = tests_drift() ? rule.forced_drift : -1,
               .q = const_cast<float*>(select.q),
               .mode = const_cast<RowMode*>(select.mode),
               .counters = rule.coverage ? nullptr : select.counters},
              main);

  const bool retrieving = rule.selects && retrieves(layer);
  if (retrieving) queue_selection(select);
  if (retrieving && tests_drift()) query_ready.record(main);
  decode_attention({.batch = batch,
                    .kv = shape.kv,
                    .map = map,
                    .layer = layer,
                    .scale = select.query_scale,
                    .q = select.q,
                    .mode = select.mode,
                    .out = attention.as<float>(),
                    .splits = splits,
                    .scratch = attention_scratch.data(),
                    .expects_speculative = tests_drift() && rule.tau <= 1},
                   main);
  if (retrieving && rule.speculative) queue_speculation(select);

  linear({.x = attention.as<float>(),
          .weight = w.output,
          .bias = w.output_bias,
          .out = x.as<float>(),
          .n = hidden,
          .k = attended_width,
          .accumulate = true});
  linear({.x = x.as<float>(),
          .weight = w.gate_up,
          .out = activated.as<float>(),
          .n = shape.ffn,
          .k = hidden,
          .norm = w.ffn_norm,
          .norm_eps = shape.norm_eps,
          .gated = true});
  linear({.x = activated.as<float>(),
          .weight = w.down,
          .out = x.as<float>(),
          .n = hidden,
          .k = shape.ffn,
          .accumulate = true});
  if (recall) recall->finish_layer();
}

// Corrected heads, before attention (algorithm.md, section 4, step 3); with coverage all heads
// select here, and what they wait for decides which are corrected (section 6).
void Decoder::Impl::queue_selection(const SelectParams& params) {
  const bool gathers = !recall || rule.mechanism == Mechanism::kGather;
  if (gathers && can_correct_pages(params)) return correct_pages(params, main);
  if (recall) recall->hold(params.layer, main);
  score_pages(params, main);
  if (rule.coverage) {
    score_common_pages(params, main);
    cover_pages(
        {.select = params, .mode = const_cast<RowMode*>(params.mode), .epsilon = rule.epsilon},
        main);
  } else {
    choose_pages(params, main);
  }
  if (recall) recall->bring(params, main);
}

// All others, for the next step and beside the rest of this one (step 5). Scores need the query
// alone; what is chosen takes slots that attention must have read before.
void Decoder::Impl::queue_speculation(SelectParams params) {
  Side& side = sides[params.layer % kSides];
  params.which = RowMode::kSpeculative;
  attended.record(main);
  if (rule.coverage) {  // they have selected; what they did not wait for is left
    attended.hold(side.stream);
    cover_rest(params, side.stream);
    if (recall) recall->bring_ahead(params, side.stream);
    return;
  }
  params.ahead = 1;
  params.scratch = side.scores.data();
  query_ready.hold(side.stream);
  score_pages(params, side.stream);
  attended.hold(side.stream);
  choose_pages(params, side.stream);
  if (recall) recall->bring_ahead(params, side.stream);
}

SelectParams Decoder::Impl::selection(int32_t layer) const {
  const auto at = static_cast<size_t>(layer);
  const size_t rows = static_cast<size_t>(limits.sequences) * static_cast<size_t>(kv_heads());
  const size_t row_q = static_cast<size_t>(shape.kv.group) * static_cast<size_t>(shape.kv.head_dim);
  const float query_scale = 1.0f / std::sqrt(static_cast<float>(shape.kv.head_dim));
  SelectParams params{.batch = batch,
                      .kv = shape.kv,
                      .map = map,
                      .layer = layer,
                      // Scores of key2 are logarithms of attention mass already.
                      .scale = rule.sketch == SketchKind::kKey2 ? 1.0f : query_scale,
                      .query_scale = query_scale,
                      .sketch = rule.sketch,
                      .q = q.as<float>() + at * rows * row_q,
                      .mode = modes.as<RowMode>() + at * rows,
                      .which = RowMode::kCorrected,
                      .ahead = 0,
                      .pooling = rule.pooling,
                      .max_candidates = map.pages(limits.context),
                      .mass = rule.coverage,
                      .forced_churn = rule.forced_churn,
                      .scratch = scores_main.data(),
                      .moves = nullptr,
                      .move_count = nullptr,
                      .counters = counters.as<RowCounters>() + at * rows};
  if (rule.selects) {
    params.moves = moves.as<Move>() + at * rows * static_cast<size_t>(map.selected);
    params.move_count = move_counts.as<int32_t>() + at * rows;
  }
  // One sequence leaves the link idle most of the time, and asking costs more than sharing it;
  // unless selection takes so long that its recall reaches into the next layer's correction.
  if (batch.n > 1 || params.max_candidates >= kManyCandidates) {
    params.corrections = corrections.as<int32_t>();
  }
  return params;
}

// For all rows of the batch.
void Decoder::Impl::linear(GemvParams params) {
  const float* const input = params.x;
  float* const out = params.out;
  for (int32_t row = 0; row < batch.n; row += kMaxGemvRows) {
    params.x = input + int64_t{row} * params.k;
    params.out = out + int64_t{row} * params.n;
    params.rows = std::min(kMaxGemvRows, batch.n - row);
    params.taken = taken.as<unsigned>() + queued_products++;
    gemv(params, main);
  }
}

}  // namespace freekv::cuda
