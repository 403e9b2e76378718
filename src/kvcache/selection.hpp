// Selection: which k pages a KV head wants for a query. Score, pool over the group, take the top.
#pragma once

#include <cstdint>
#include <span>

#include "backends/backend.hpp"
#include "kvcache/page_layout.hpp"
#include "kvcache/sketch.hpp"

namespace freekv {

/// Memory that one selection at a time needs; borrowed, [G, n] and [n] for n candidates or more.
struct SelectionScratch {
  std::span<float> scores;
  std::span<float> pooled;
};

struct SelectionParams {
  const SketchStore* sketches = nullptr;
  int head = 0;
  View<const float, 2> q;  // [G, d]
  PageRange candidates;
  Pooling pooling = Pooling::kMeanSoftmax;
  float scale = 1;  // multiplies scores before a softmax: 1/sqrt(d)
};

/// Whether `wanted` pages are fewer than the candidates. If not, all of them are selected, and
/// none needs a score.
bool has_choice(const SelectionParams& params, size_t wanted);

/// Scores candidates [begin, end), counted from the first, into the scratch. Parts of one
/// selection may be scored on several threads at once.
void score_candidates(Backend& backend, const SelectionParams& params,
                      const SelectionScratch& scratch, int32_t begin, int32_t end);

/// Writes the min(out.size(), candidates) best pages, ascending, to the front of `out` and returns
/// how many. Of pages that score the same the lower wins (algorithm.md, section 3). Where
/// has_choice() all candidates must have been scored, and scores are left changed. One thread.
int32_t select_scored(Backend& backend, const SelectionParams& params,
                      const SelectionScratch& scratch, std::span<int32_t> out);

/// "mean_softmax", "max_softmax", "mean_score" or "max_score"; throws Error(kInvalidArgument)
/// that lists them for anything else.
Pooling parse_pooling(std::string_view name);

}  // namespace freekv
