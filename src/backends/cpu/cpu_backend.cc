#include "backends/cpu/cpu_backend.hpp"

#include "backends/cpu/elementwise.hpp"
#include "backends/cpu/kv.hpp"
#include "backends/cpu/selection.hpp"

namespace freekv {

void CpuBackend::reserve(ExecutionContext& ctx, const BackendLimits& limits) {
  linear_.reserve(ctx, limits);
  linear_prefill_.reserve(ctx, limits);
  decode_attention_.reserve(ctx, limits);
  prefill_attention_.reserve(ctx, limits);
  prefill_mass_.reserve(ctx, limits);
}

void CpuBackend::embed(ExecutionContext& ctx, const WeightView& table, std::span<const int32_t> ids,
                       View<float, 2> out) {
  cpu::embed(ctx, table, ids, out);
}

void CpuBackend::rms_norm(ExecutionContext& ctx, View<const float, 2> x,
                          View<const float, 1> weight, float eps, View<float, 2> out) {
  cpu::rms_norm(ctx, x, weight, eps, out);
}

void CpuBackend::linear(ExecutionContext& ctx, View<const float, 2> x, const WeightView& weight,
                        bool accumulate, View<float, 2> out) {
  cpu::linear(ctx, linear_, activations_, x, weight, accumulate, out);
}

void CpuBackend::linear_prefill(ExecutionContext& ctx, View<const float, 2> x,
                                const WeightView& weight, bool accumulate, View<float, 2> out) {
  cpu::linear_prefill(ctx, linear_prefill_, x, weight, accumulate, out);
}

void CpuBackend::add_bias(ExecutionContext& ctx, View<const float, 1> bias, View<float, 2> x) {
  cpu::add_bias(ctx, bias, x);
}

void CpuBackend::rope(ExecutionContext& ctx, View<float, 3> x, std::span<const int64_t> positions,
                      const RopeTable& table, RopeStyle style) {
  cpu::rope(ctx, x, positions, table, style);
}

void CpuBackend::swiglu(ExecutionContext& ctx, View<const float, 2> gate, View<const float, 2> up,
                        View<float, 2> out) {
  cpu::swiglu(ctx, gate, up, out);
}

void CpuBackend::append_kv(ExecutionContext& ctx, View<const float, 3> k, View<const float, 3> v,
                           const KvPool& pool, std::span<const int32_t> slots, int first) {
  cpu::append_kv(ctx, k, v, pool, slots, first);
}

void CpuBackend::copy_head_page(const KvPool& from, int32_t from_slot, const KvPool& to,
                                int32_t to_slot, int head) {
  cpu::copy_head_page(from, from_slot, to, to_slot, head);
}

void CpuBackend::decode_attention(ExecutionContext& ctx, View<const float, 3> q,
                                  std::span<const AttentionRow> rows, float scale,
                                  View<float, 3> out, View<float, 2> log_mass) {
  cpu::decode_attention(ctx, decode_attention_, q, rows, scale, out, log_mass);
}

void CpuBackend::prefill_attention(ExecutionContext& ctx, const PrefillAttention& params) {
  cpu::prefill_attention(ctx, prefill_attention_, params);
}

void CpuBackend::prefill_mass(ExecutionContext& ctx, const PrefillMass& params) {
  cpu::prefill_mass(ctx, prefill_mass_, params);
}

void CpuBackend::build_box_sketch(const KvPool& pool, int32_t slot, int head,
                                  const BoxSketchView& sketch, int64_t page) {
  cpu::build_box_sketch(pool, slot, head, sketch, page);
}

void CpuBackend::score_box_pages(View<const float, 2> q, const BoxSketchView& sketch, int64_t first,
                                 View<float, 2> scores) {
  cpu::score_box_pages(q, sketch, first, scores);
}

void CpuBackend::build_key2_sketch(const KvPool& pool, int32_t slot, int head,
                                   const Key2SketchView& sketch, int64_t page) {
  cpu::build_key2_sketch(pool, slot, head, sketch, page);
}

void CpuBackend::score_key2_pages(View<const float, 2> q, const Key2SketchView& sketch, float scale,
                                  std::span<const int32_t> pages, View<float, 2> scores) {
  cpu::score_key2_pages(q, sketch, scale, pages, scores);
}

void CpuBackend::score_exact_pages(View<const float, 2> q, const AttentionRow& row, float scale,
                                   View<float, 2> scores) {
  cpu::score_exact_pages(q, row, scale, scores);
}

void CpuBackend::pool_scores(Pooling pooling, float scale, View<float, 2> scores,
                             View<float, 1> pooled) {
  cpu::pool_scores(pooling, scale, scores, pooled);
}

void CpuBackend::build_mean_values(const KvPool& pool, int32_t slot, int head,
                                   const MeanValuesView& means, int64_t page) {
  cpu::build_mean_values(pool, slot, head, means, page);
}

void CpuBackend::add_mean_values(View<const float, 2> weights, const MeanValuesView& means,
                                 int64_t first, View<float, 2> out) {
  cpu::add_mean_values(weights, means, first, out);
}

void CpuBackend::top_k(View<const float, 1> values, std::span<int32_t> out) {
  cpu::top_k(values, out);
}

void CpuBackend::mean_cosine(ExecutionContext& ctx, View<const float, 3> q,
                             View<const float, 3> previous, View<float, 1> out) {
  cpu::mean_cosine(ctx, q, previous, out);
}

std::unique_ptr<Backend> make_cpu_backend(Activations activations) {
  return std::make_unique<CpuBackend>(activations);
}

}  // namespace freekv
