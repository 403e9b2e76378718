// The scalar oracle. One free function per operation, in the file of its topic.
#pragma once

#include "backends/backend.hpp"
#include "backends/reference/linear.hpp"

namespace freekv {

class ReferenceBackend final : public Backend {
 public:
  explicit ReferenceBackend(Activations activations) : activations_(activations) {}
  std::string_view name() const override { return "reference"; }
  void reserve(ExecutionContext& ctx, const BackendLimits& limits) override;
  void embed(ExecutionContext& ctx, const WeightView& table, std::span<const int32_t> ids,
             View<float, 2> out) override;
  void rms_norm(ExecutionContext& ctx, View<const float, 2> x, View<const float, 1> weight,
                float eps, View<float, 2> out) override;
  void linear(ExecutionContext& ctx, View<const float, 2> x, const WeightView& weight,
              bool accumulate, View<float, 2> out) override;
  void linear_prefill(ExecutionContext& ctx, View<const float, 2> x, const WeightView& weight,
                      bool accumulate, View<float, 2> out) override;
  void add_bias(ExecutionContext& ctx, View<const float, 1> bias, View<float, 2> x) override;
  void rope(ExecutionContext& ctx, View<float, 3> x, std::span<const int64_t> positions,
            const RopeTable& table, RopeStyle style) override;
  void swiglu(ExecutionContext& ctx, View<const float, 2> gate, View<const float, 2> up,
              View<float, 2> out) override;
  void append_kv(ExecutionContext& ctx, View<const float, 3> k, View<const float, 3> v,
                 const KvPool& pool, std::span<const int32_t> slots, int first) override;
  void copy_head_page(const KvPool& from, int32_t from_slot, const KvPool& to, int32_t to_slot,
                      int head) override;
  void decode_attention(ExecutionContext& ctx, View<const float, 3> q,
                        std::span<const AttentionRow> rows, float scale, View<float, 3> out,
                        View<float, 2> log_mass) override;
  void prefill_attention(ExecutionContext& ctx, const PrefillAttention& params) override;
  void prefill_mass(ExecutionContext& ctx, const PrefillMass& params) override;
  void build_box_sketch(const KvPool& pool, int32_t slot, int head, const BoxSketchView& sketch,
                        int64_t page) override;
  void score_box_pages(View<const float, 2> q, const BoxSketchView& sketch, int64_t first,
                       View<float, 2> scores) override;
  void build_key2_sketch(const KvPool& pool, int32_t slot, int head, const Key2SketchView& sketch,
                         int64_t page) override;
  void score_key2_pages(View<const float, 2> q, const Key2SketchView& sketch, float scale,
                        std::span<const int32_t> pages, View<float, 2> scores) override;
  void score_exact_pages(View<const float, 2> q, const AttentionRow& row, float scale,
                         View<float, 2> scores) override;
  void pool_scores(Pooling pooling, float scale, View<float, 2> scores,
                   View<float, 1> pooled) override;
  void build_mean_values(const KvPool& pool, int32_t slot, int head, const MeanValuesView& means,
                         int64_t page) override;
  void add_mean_values(View<const float, 2> weights, const MeanValuesView& means, int64_t first,
                       View<float, 2> out) override;
  void top_k(View<const float, 1> values, std::span<int32_t> out) override;
  void mean_cosine(ExecutionContext& ctx, View<const float, 3> q, View<const float, 3> previous,
                   View<float, 1> out) override;

 private:
  Activations activations_;
  reference::LinearScratch linear_;
};

}  // namespace freekv
