// Selection: which k pages a KV head wants for a query. Score, pool over the group, take the top.
//
// Scores stand in columns, one per page: the candidates alone, or every page so far where sink and
// window share the softmax, so that what is pooled is attention mass. A sketch of two stages scores
// all candidates, lists the best, and scores these again.
#pragma once

#include <cstdint>
#include <span>

#include "backends/backend.hpp"
#include "kvcache/page_layout.hpp"
#include "kvcache/sketch.hpp"

namespace freekv {

/// Memory that one selection at a time needs; borrowed.
struct SelectionScratch {
  std::span<float> scores;    // [G, columns] or more
  std::span<float> pooled;    // [columns] or more
  std::span<int32_t> listed;  // [candidates] or more, for sketches of two stages
};

struct SelectionParams {
  const SketchStore* sketches = nullptr;  // null: whoever selects writes all scores
  int head = 0;
  SketchQuery query;
  PageRange candidates;
  PageRange columns;  // contain the candidates
  Pooling pooling = Pooling::kMeanSoftmax;
};

/// Whether `wanted` pages are fewer than the candidates. If not, all of them are selected, and
/// none needs a score.
bool has_choice(const SelectionParams& params, size_t wanted);

/// Whether the sketch has two stages, so that candidates are listed; and whether they are enough
/// for a first stage to leave some out: if not, none needs its score.
bool lists_candidates(const SelectionParams& params);
bool has_first_stage(const SelectionParams& params, size_t wanted);

/// Scores of the pages [first, first + scores.shape(1)) to their columns.
void write_scores(const SelectionParams& params, const SelectionScratch& scratch, int32_t first,
                  View<const float, 2> scores);

/// Scores candidates [begin, end), counted from the first, into the scratch. Parts of one
/// selection may be scored on several threads at once. The scores of a first stage are not yet in
/// their columns.
void score_candidates(Backend& backend, const SelectionParams& params,
                      const SelectionScratch& scratch, bool first_stage, int32_t begin,
                      int32_t end);

/// Ends a first stage: writes the best candidates to the front of `listed`, ascending, and returns
/// how many; at least `wanted`, if there are. All columns are -infinity then. One thread.
int32_t list_candidates(Backend& backend, const SelectionParams& params,
                        const SelectionScratch& scratch, size_t wanted);

/// Scores `pages` of those listed, to their columns; on several threads as score_candidates().
void score_listed(Backend& backend, const SelectionParams& params, const SelectionScratch& scratch,
                  std::span<const int32_t> pages);

/// Writes the min(out.size(), candidates) best pages, ascending, to the front of `out` and returns
/// how many. Of pages that score the same the lower wins (algorithm.md, section 3). Where
/// has_choice() all columns must have been scored; scores are left changed, and `pooled` holds what
/// pages were chosen by. One thread.
int32_t select_scored(Backend& backend, const SelectionParams& params,
                      const SelectionScratch& scratch, std::span<int32_t> out);

/// Pools the scores of all columns; with kMeanSoftmax and scores of kind kLogMass to the mean
/// attention mass of each page. Part of select_scored() where there is a choice.
void pool_columns(Backend& backend, const SelectionParams& params, const SelectionScratch& scratch);

/// "mean_softmax", "max_softmax", "mean_score" or "max_score"; throws Error(kInvalidArgument)
/// that lists them for anything else.
Pooling parse_pooling(std::string_view name);

}  // namespace freekv
