#include "kvcache/selection.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "core/check.hpp"

namespace freekv {

int32_t select_pages(Backend& backend, const SelectionParams& params,
                     const SelectionScratch& scratch, std::span<int32_t> out) {
  const int32_t n = params.candidates.size();
  if (n <= static_cast<int32_t>(out.size())) {
    // Nothing to choose: the best n of n pages are all of them, whatever they score.
    std::iota(out.begin(), out.begin() + n, params.candidates.first);
    return n;
  }
  const int64_t group = params.q.shape(0);
  check_internal(static_cast<int64_t>(scratch.scores.size()) >= group * n &&
                     static_cast<int32_t>(scratch.pooled.size()) >= n,
                 "scratch for {} candidates, {} are given", scratch.pooled.size(), n);
  const View<float, 2> scores(scratch.scores.data(), group, n);
  const View<float, 1> pooled(scratch.pooled.data(), n);
  params.sketches->score(backend, params.head, params.q, params.candidates.first, scores);
  backend.pool_scores(params.pooling, params.scale, scores, pooled);
  backend.top_k(pooled, out);
  for (int32_t& page : out) page += params.candidates.first;
  return static_cast<int32_t>(out.size());
}

Pooling parse_pooling(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, Pooling>, 4> kNames{{
      {"mean_softmax", Pooling::kMeanSoftmax},
      {"max_softmax", Pooling::kMaxSoftmax},
      {"mean_score", Pooling::kMeanScore},
      {"max_score", Pooling::kMaxScore},
  }};
  for (const auto& [known, pooling] : kNames) {
    if (known == name) return pooling;
  }
  fail(ErrorCode::kInvalidArgument,
       "pooling is '{}', must be one of mean_softmax, max_softmax, mean_score, max_score", name);
}

}  // namespace freekv
