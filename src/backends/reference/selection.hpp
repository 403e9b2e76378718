// Scalar reference of sketches, page scores and selection. Contracts: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"

namespace freekv::reference {

void build_box_sketch(const KvPool& pool, int32_t slot, int head, const BoxSketchView& sketch,
                      int64_t page);
void score_box_pages(View<const float, 2> q, const BoxSketchView& sketch, int64_t first,
                     View<float, 2> scores);
void build_key2_sketch(const KvPool& pool, int32_t slot, int head, const Key2SketchView& sketch,
                       int64_t page);
void score_key2_pages(View<const float, 2> q, const Key2SketchView& sketch, float scale,
                      std::span<const int32_t> pages, View<float, 2> scores);
void score_exact_pages(View<const float, 2> q, const AttentionRow& row, float scale,
                       View<float, 2> scores);
void pool_scores(Pooling pooling, float scale, View<float, 2> scores, View<float, 1> pooled);
void build_mean_values(const KvPool& pool, int32_t slot, int head, const MeanValuesView& means,
                       int64_t page);
void add_mean_values(View<const float, 2> weights, const MeanValuesView& means, int64_t first,
                     View<float, 2> out);
void top_k(View<const float, 1> values, std::span<int32_t> out);
void mean_cosine(ExecutionContext& ctx, View<const float, 3> q, View<const float, 3> previous,
                 View<float, 1> out);

}  // namespace freekv::reference
