// Selection: which k pages a KV head wants for a query. Score, pool over the group, take the top.
#pragma once

#include <cstdint>
#include <span>

#include "backends/backend.hpp"
#include "kvcache/page_layout.hpp"
#include "kvcache/sketch.hpp"

namespace freekv {

/// Memory that one selection at a time needs; borrowed, [G * n] and [n] for up to n candidates.
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

/// Writes the min(out.size(), candidates) best pages, ascending, to the front of `out` and returns
/// how many. Of pages that score the same the lower wins (algorithm.md, section 3). One thread;
/// several rows may be selected at once with a scratch each.
int32_t select_pages(Backend& backend, const SelectionParams& params,
                     const SelectionScratch& scratch, std::span<int32_t> out);

/// "mean_softmax", "max_softmax", "mean_score" or "max_score"; throws Error(kInvalidArgument)
/// that lists them for anything else.
Pooling parse_pooling(std::string_view name);

}  // namespace freekv
