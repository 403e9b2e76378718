// Mean values of pages, and what they add to attention. Contracts: Backend in backend.hpp.
#include "backends/reference/selection.hpp"
#include "backends/selection_checks.hpp"

namespace freekv::reference {

void build_mean_values(const KvPool& pool, int32_t slot, int head, const MeanValuesView& means,
                       int64_t page) {
  check_sketch(pool, slot, head, means, page);
  const std::byte* values = pool.values(slot, head);
  const int tokens = pool.shape.page;
  for (int e = 0; e < means.head_dim; ++e) {
    double sum = 0;
    for (int t = 0; t < tokens; ++t) {
      sum +=
          load_element(pool.shape.dtype, values + static_cast<size_t>(t) * pool.token_stride(), e);
    }
    store_element(means.dtype, means.mean(page), e, static_cast<float>(sum / tokens));
  }
}

void add_mean_values(View<const float, 2> weights, const MeanValuesView& means, int64_t first,
                     View<float, 2> out) {
  check_mean_values(weights, means, first, out);
  for (int64_t g = 0; g < weights.shape(0); ++g) {
    for (int e = 0; e < means.head_dim; ++e) {
      double sum = out[g][e];
      for (int64_t i = 0; i < weights.shape(1); ++i) {
        const float weight = weights[g][i];
        if (weight == 0) continue;
        sum += static_cast<double>(weight) * load_element(means.dtype, means.mean(first + i), e);
      }
      out[g][e] = static_cast<float>(sum);
    }
  }
}

}  // namespace freekv::reference
