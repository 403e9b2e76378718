#include "backends/reference/reference_backend.hpp"

#include "backends/reference/decode_attention.hpp"
#include "backends/reference/elementwise.hpp"
#include "backends/reference/kv.hpp"
#include "backends/reference/prefill_attention.hpp"
#include "backends/reference/prefill_mass.hpp"
#include "backends/reference/selection.hpp"

namespace freekv {

void ReferenceBackend::reserve(ExecutionContext& ctx, const BackendLimits& limits) {
  linear_.reserve(ctx, limits);
}

void ReferenceBackend::embed(ExecutionContext& ctx, const WeightView& table,
                             std::span<const int32_t> ids, View<float, 2> out) {
  reference::embed(ctx, table, ids, out);
}

void ReferenceBackend::rms_norm(ExecutionContext& ctx, View<const float, 2> x,
                                View<const float, 1> weight, float eps, View<float, 2> out) {
  reference::rms_norm(ctx, x, weight, eps, out);
}

void ReferenceBackend::linear(ExecutionContext& ctx, View<const float, 2> x,
                              const WeightView& weight, bool accumulate, View<float, 2> out) {
  reference::linear(ctx, linear_, activations_, x, weight, accumulate, out);
}

void ReferenceBackend::linear_prefill(ExecutionContext& ctx, View<const float, 2> x,
                                      const WeightView& weight, bool accumulate,
                                      View<float, 2> out) {
  reference::linear(ctx, linear_, Activations::kF32, x, weight, accumulate, out);
}

void ReferenceBackend::add_bias(ExecutionContext& ctx, View<const float, 1> bias,
                                View<float, 2> x) {
  reference::add_bias(ctx, bias, x);
}

void ReferenceBackend::rope(ExecutionContext& ctx, View<float, 3> x,
                            std::span<const int64_t> positions, const RopeTable& table,
                            RopeStyle style) {
  reference::rope(ctx, x, positions, table, style);
}

void ReferenceBackend::swiglu(ExecutionContext& ctx, View<const float, 2> gate,
                              View<const float, 2> up, View<float, 2> out) {
  reference::swiglu(ctx, gate, up, out);
}

void ReferenceBackend::append_kv(ExecutionContext& ctx, View<const float, 3> k,
                                 View<const float, 3> v, const KvPool& pool,
                                 std::span<const int32_t> slots, int first) {
  reference::append_kv(ctx, k, v, pool, slots, first);
}

void ReferenceBackend::copy_head_page(const KvPool& from, int32_t from_slot, const KvPool& to,
                                      int32_t to_slot, int head) {
  reference::copy_head_page(from, from_slot, to, to_slot, head);
}

void ReferenceBackend::decode_attention(ExecutionContext& ctx, View<const float, 3> q,
                                        std::span<const AttentionRow> rows, float scale,
                                        View<float, 3> out, View<float, 2> log_mass) {
  reference::decode_attention(ctx, q, rows, scale, out, log_mass);
}

void ReferenceBackend::prefill_attention(ExecutionContext& ctx, const PrefillAttention& params) {
  reference::prefill_attention(ctx, params);
}

void ReferenceBackend::prefill_mass(ExecutionContext& ctx, const PrefillMass& params) {
  reference::prefill_mass(ctx, params);
}

void ReferenceBackend::build_box_sketch(const KvPool& pool, int32_t slot, int head,
                                        const BoxSketchView& sketch, int64_t page) {
  reference::build_box_sketch(pool, slot, head, sketch, page);
}

void ReferenceBackend::score_box_pages(View<const float, 2> q, const BoxSketchView& sketch,
                                       int64_t first, View<float, 2> scores) {
  reference::score_box_pages(q, sketch, first, scores);
}

void ReferenceBackend::build_key2_sketch(const KvPool& pool, int32_t slot, int head,
                                         const Key2SketchView& sketch, int64_t page) {
  reference::build_key2_sketch(pool, slot, head, sketch, page);
}

void ReferenceBackend::score_key2_pages(View<const float, 2> q, const Key2SketchView& sketch,
                                        float scale, std::span<const int32_t> pages,
                                        View<float, 2> scores) {
  reference::score_key2_pages(q, sketch, scale, pages, scores);
}

void ReferenceBackend::score_exact_pages(View<const float, 2> q, const AttentionRow& row,
                                         float scale, View<float, 2> scores) {
  reference::score_exact_pages(q, row, scale, scores);
}

void ReferenceBackend::pool_scores(Pooling pooling, float scale, View<float, 2> scores,
                                   View<float, 1> pooled) {
  reference::pool_scores(pooling, scale, scores, pooled);
}

void ReferenceBackend::build_mean_values(const KvPool& pool, int32_t slot, int head,
                                         const MeanValuesView& means, int64_t page) {
  reference::build_mean_values(pool, slot, head, means, page);
}

void ReferenceBackend::add_mean_values(View<const float, 2> weights, const MeanValuesView& means,
                                       int64_t first, View<float, 2> out) {
  reference::add_mean_values(weights, means, first, out);
}

void ReferenceBackend::top_k(View<const float, 1> values, std::span<int32_t> out) {
  reference::top_k(values, out);
}

void ReferenceBackend::mean_cosine(ExecutionContext& ctx, View<const float, 3> q,
                                   View<const float, 3> previous, View<float, 1> out) {
  reference::mean_cosine(ctx, q, previous, out);
}

std::unique_ptr<Backend> make_reference_backend(Activations activations) {
  return std::make_unique<ReferenceBackend>(activations);
}

}  // namespace freekv
