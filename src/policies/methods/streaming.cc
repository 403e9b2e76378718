// streaming: sink and the most recent tokens, nothing else (StreamingLLM, arXiv 2309.17453). The
// window takes all that the sink leaves of the budget, so that it attends to as many tokens as the
// methods it is compared with; what leaves the window is dropped for good.
#include "policies/policy.hpp"
#include "policies/retrieval.hpp"

namespace freekv {
namespace {

class StreamingPolicy final : public Policy {
 public:
  StreamingPolicy() {
    needs_.fast = CacheNeeds::Fast::kBudget;
    needs_.selects = false;
  }

  CacheNeeds plan(const CacheConfig& config) const override {
    check_budget(config.tokens, config.shape.page);
    return needs_;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const override {
    return std::make_unique<RetrievalState>(config, needs_);
  }

  void pages_for(LayerStep& step) override {
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      const PolicySequence& sequence = step.sequences[static_cast<size_t>(s)];
      if (!sequence.cache.retrieves(step.layer)) {
        set_dense_rows(step, s);
        continue;
      }
      // Nothing is ever selected, so these rows are sink and window.
      for (int head = 0; head < sequence.cache.config().shape.heads; ++head) {
        set_sparse_row(step, {s, head}, static_cast<RetrievalState&>(sequence.state));
      }
    }
  }

 private:
  CacheNeeds needs_;
};

}  // namespace

PolicyDescriptor describe_streaming() {
  return {"streaming",
          "sink and recent window only, the rest is dropped (StreamingLLM, ICLR 2024)",
          {},
          [](const PolicyOptions&) { return std::make_unique<StreamingPolicy>(); }};
}

}  // namespace freekv
