// quest: every page stays in fast memory; each step attends to the pages that score highest with
// its own query (Quest, arXiv 2406.10774). A reference for selection without any movement of KV.
#include "kvcache/sketch.hpp"
#include "policies/policy.hpp"
#include "policies/retrieval.hpp"

namespace freekv {
namespace {

class QuestPolicy final : public Policy {
 public:
  explicit QuestPolicy(const PolicyOptions& options)
      : pooling_(parse_pooling(options.text("pooling"))) {
    needs_.sketch = find_sketch(options.text("sketch")).name();
    needs_.dense_layers = static_cast<int>(options.integer("dense_layers", 0, 1024));
  }

  CacheNeeds plan(const CacheConfig& config) const override {
    check_budget(config.tokens, config.shape.page);
    return needs_;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const override {
    return std::make_unique<RetrievalState>(config, needs_);
  }
  std::optional<RetrievalRule> device_rule() const override {
    const auto sketch = device_sketch(needs_.sketch);
    if (!sketch) return std::nullopt;
    RetrievalRule rule;
    rule.selects = true;
    rule.sketch = *sketch;
    rule.pooling = pooling_;
    rule.dense_layers = needs_.dense_layers;
    return rule;
  }

  void pages_for(LayerStep& step) override {
    const auto retrieves = [&](const StepRow& row) {
      return step.sequences[static_cast<size_t>(row.sequence)].cache.retrieves(step.layer);
    };
    select_rows(step, {pooling_}, retrieves, [&](const StepRow& row) {
      const PolicySequence& sequence = step.sequences[static_cast<size_t>(row.sequence)];
      set_sparse_row(step, row, static_cast<RetrievalState&>(sequence.state));
    });
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      if (!retrieves({s, 0})) {
        set_dense_rows(step, s);
        continue;
      }
      const PolicySequence& sequence = step.sequences[static_cast<size_t>(s)];
      auto& state = static_cast<RetrievalState&>(sequence.state);
      RetrievalStats& stats = sequence.cache.stats();
      for (int head = 0; head < sequence.cache.config().shape.heads; ++head) {
        // Everything is in fast memory, so all that is selected is a hit.
        ++stats.selections;
        stats.pages_selected += state.selected(step.layer, head).size();
        stats.hits += state.selected(step.layer, head).size();
      }
    }
  }

 private:
  CacheNeeds needs_;
  Pooling pooling_;
};

}  // namespace

PolicyDescriptor describe_quest() {
  return {
      "quest",
      "page selection with the current query, all KV in fast memory (Quest, ICML 2024)",
      {{"sketch", "minmax", "page sketch: " + sketch_names()},
       {"pooling", "max_score", "over the group: mean_softmax, max_softmax, mean_score, max_score"},
       {"dense_layers", "2", "first layers that attend to everything (Quest, section 3.1: 2)"}},
      [](const PolicyOptions& options) { return std::make_unique<QuestPolicy>(options); }};
}

}  // namespace freekv
