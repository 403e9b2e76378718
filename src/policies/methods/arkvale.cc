// arkvale: the whole KV in the slow tier, a budget of pages in the fast one. Each step scores all
// pages with its own query and attention waits for the missing ones, for which the resident pages
// of lowest score leave (ArkVale, NeurIPS 2024, section 4). What freekv is compared with: the same
// two tiers without speculation.
#include "kvcache/sketch.hpp"
#include "policies/blocking_recall.hpp"
#include "policies/policy.hpp"

namespace freekv {
namespace {

class ArkValePolicy final : public Policy {
 public:
  explicit ArkValePolicy(const PolicyOptions& options)
      : pooling_(parse_pooling(options.text("pooling"))) {
    needs_.fast = CacheNeeds::Fast::kBudget;
    needs_.slow = true;
    needs_.sketch = find_sketch(options.text("sketch")).name();
    needs_.dense_layers = static_cast<int>(options.integer("dense_layers", 0, 1024));
    needs_.resident_factor = options.number("resident", 1, 1024);
  }

  CacheNeeds plan(const CacheConfig& config) const override {
    check_budget(config.tokens, config.shape.page);
    return needs_;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const override {
    return std::make_unique<BlockingState>(config, needs_);
  }

  void pages_for(LayerStep& step) override {
    const auto cache = [&](int s) -> SequenceCache& {
      return step.sequences[static_cast<size_t>(s)].cache;
    };
    const auto state = [&](int s) -> BlockingState& {
      return static_cast<BlockingState&>(step.sequences[static_cast<size_t>(s)].state);
    };
    select_rows(
        step, {pooling_},
        [&](const StepRow& row) { return cache(row.sequence).retrieves(step.layer); },
        [&](const StepRow& row) {
          // The scores that the selection was made from, also where all candidates were taken and
          // none was scored: no page then leaves for another.
          const PageRange candidates =
              cache(row.sequence).layout().candidates(cache(row.sequence).tokens() + 1);
          const auto scores = state(row.sequence).scratch(row.head).pooled;
          recall_row(step, row, state(row.sequence),
                     {candidates.first, scores.first(static_cast<size_t>(candidates.size()))});
        });
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      if (cache(s).retrieves(step.layer)) {
        count_recalled(step, s, state(s));
      } else {
        set_dense_rows(step, s);
      }
    }
  }

 private:
  CacheNeeds needs_;
  Pooling pooling_;
};

}  // namespace

PolicyDescriptor describe_arkvale() {
  return {"arkvale",
          "recall before attention, lowest scores are evicted (ArkVale, NeurIPS 2024)",
          {{"sketch", "cuboid", "page sketch: " + sketch_names()},
           {"pooling", "mean_score",
            "over the group: mean_softmax, max_softmax, mean_score, max_score"},
           {"dense_layers", "2", "first layers that keep and attend to everything (ArkVale: 2)"},
           {"resident", "1",
            "fast-tier pages per head for selections, as a multiple of those selected"}},
          [](const PolicyOptions& options) { return std::make_unique<ArkValePolicy>(options); }};
}

}  // namespace freekv
