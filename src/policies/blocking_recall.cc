#include "policies/blocking_recall.hpp"

#include <algorithm>

namespace freekv {

void recall_row(LayerStep& step, const StepRow& row, BlockingState& state, const PageWorth& worth,
                FunctionRef<void(int, std::span<const PageMove>)> bring) {
  LayerCache& layer = step.sequences[static_cast<size_t>(row.sequence)].cache.layer(step.layer);
  const auto misses = layer.make_resident(row.head, state.selected(step.layer, row.head),
                                          state.move_room(row.head), worth);
  state.set_moves(row.head, misses.size());
  state.recall_ns(row.head) = misses.empty() ? 0 : time_of([&] { bring(row.head, misses); });
  set_sparse_row(step, row, state);
}

void recall_row(LayerStep& step, const StepRow& row, BlockingState& state, const PageWorth& worth) {
  LayerCache& layer = step.sequences[static_cast<size_t>(row.sequence)].cache.layer(step.layer);
  recall_row(step, row, state, worth,
             [&](int head, std::span<const PageMove> misses) { layer.recall_now(head, misses); });
}

void count_recalled(const LayerStep& step, int sequence, BlockingState& state) {
  SequenceCache& cache = step.sequences[static_cast<size_t>(sequence)].cache;
  RetrievalStats& stats = cache.stats();
  uint64_t longest = 0;
  for (int head = 0; head < cache.config().shape.heads; ++head) {
    const uint64_t pages = state.selected(step.layer, head).size();
    const uint64_t misses = state.moves(head).size();
    ++stats.selections;
    stats.pages_selected += pages;
    stats.hits += pages - misses;
    stats.misses_before += misses;
    stats.bytes_recalled += misses * cache.config().shape.head_page_bytes();
    longest = std::max(longest, state.recall_ns(head));
  }
  // Heads are recalled side by side, so attention waited for the longest of them.
  stats.wait_ns += longest;
}

}  // namespace freekv
