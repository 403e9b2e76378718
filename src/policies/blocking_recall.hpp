// Recall before attention, as the methods without speculation do it: select, bring in, attend.
#pragma once

#include <vector>

#include "policies/retrieval.hpp"

namespace freekv {

class BlockingState : public RetrievalState {
 public:
  BlockingState(const CacheConfig& config, const CacheNeeds& needs)
      : RetrievalState(config, needs), recall_ns_(static_cast<size_t>(config.shape.heads)) {}

  /// How long the last recall of this head took.
  uint64_t& recall_ns(int head) { return recall_ns_[static_cast<size_t>(head)]; }

 private:
  std::vector<uint64_t> recall_ns_;  // [M]
};

/// Brings what is missing of the row's selection through `bring(head, misses)`, the pages of least
/// worth leaving for it, and sets the row. For one worker.
void recall_row(LayerStep& step, const StepRow& row, BlockingState& state, const PageWorth& worth,
                FunctionRef<void(int head, std::span<const PageMove> misses)> bring);
/// The same with K and V from the slow tier.
void recall_row(LayerStep& step, const StepRow& row, BlockingState& state,
                const PageWorth& worth = {});

/// Counts what recall_row() did for the heads of a sequence. Adds the bytes of whole pages.
void count_recalled(const LayerStep& step, int sequence, BlockingState& state);

}  // namespace freekv
