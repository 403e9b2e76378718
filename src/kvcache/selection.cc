#include "kvcache/selection.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "core/check.hpp"

namespace freekv {

namespace {

View<float, 2> scores_of(const SelectionParams& params, const SelectionScratch& scratch) {
  const int64_t group = params.q.shape(0), n = params.candidates.size();
  check_internal(static_cast<int64_t>(scratch.scores.size()) >= group * n,
                 "scratch for {} scores, {} are needed", scratch.scores.size(), group * n);
  return View<float, 2>(scratch.scores.data(), group, n);
}

}  // namespace

bool has_choice(const SelectionParams& params, size_t wanted) {
  return static_cast<size_t>(params.candidates.size()) > wanted;
}

void score_candidates(Backend& backend, const SelectionParams& params,
                      const SelectionScratch& scratch, int32_t begin, int32_t end) {
  const View<float, 2> scores = scores_of(params, scratch);
  const int64_t group = scores.shape(0);
  // By the block, since the scores of a part do not lie together in [G, n].
  std::array<float, 4096> block;
  const auto most = static_cast<int32_t>(static_cast<int64_t>(block.size()) / group);
  check_internal(most > 0, "the group is {}, must be at most {}", group, block.size());
  while (begin < end) {
    const int32_t count = std::min(most, end - begin);
    const View<float, 2> part(block.data(), group, count);
    params.sketches->score(backend, params.head, params.q, params.candidates.first + begin, part);
    for (int64_t g = 0; g < group; ++g) {
      std::copy_n(part[g].data(), count, scores[g].data() + begin);
    }
    begin += count;
  }
}

int32_t select_scored(Backend& backend, const SelectionParams& params,
                      const SelectionScratch& scratch, std::span<int32_t> out) {
  const int32_t n = params.candidates.size();
  if (!has_choice(params, out.size())) {
    std::iota(out.begin(), out.begin() + n, params.candidates.first);
    return n;
  }
  check_internal(static_cast<int32_t>(scratch.pooled.size()) >= n,
                 "scratch for {} candidates, {} are given", scratch.pooled.size(), n);
  const View<float, 1> pooled(scratch.pooled.data(), n);
  backend.pool_scores(params.pooling, params.scale, scores_of(params, scratch), pooled);
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
