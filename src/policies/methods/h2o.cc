// h2o: half of the budget are the most recent tokens, the other half those that attention looked at
// most since they came: of the pages that could be kept, the one of least accumulated attention is
// dropped for good (H2O, NeurIPS 2023, arXiv 2306.14048, section 4).
//
// Kept and dropped here are pages, not tokens, and a KV head decides for its group. Sink pages are
// always kept, as by every policy. The attention of all of a prompt's queries counts, as in the
// paper, which costs over half of prefill's attention once more; `observe` limits it to the last
// ones.
#include <algorithm>
#include <limits>

#include "policies/keeping.hpp"
#include "policies/policy.hpp"

namespace freekv {
namespace {

class H2oPolicy final : public Policy {
 public:
  explicit H2oPolicy(const PolicyOptions& options) {
    needs_.fast = CacheNeeds::Fast::kBudget;
    needs_.window_share = options.number("recent", 0, 1);
    const int64_t observed = options.integer("observe", 0, int64_t{1} << 30);
    needs_.observed = observed > 0 ? observed : std::numeric_limits<int64_t>::max();
  }

  CacheNeeds plan(const CacheConfig& config) const override {
    check_budget(config.tokens, config.shape.page);
    return needs_;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const override {
    return std::make_unique<KeepingState>(config, needs_);
  }

  void on_queries(const PromptQueries& queries) override { add_prompt_mass(queries); }

  void on_prefill(ExecutionContext& ctx, Backend& backend,
                  const PolicySequence& sequence) override {
    static_cast<KeepingState&>(sequence.state).remember_prompt();
    keep_of_prompt(ctx, backend, sequence);
  }

  void pages_for(LayerStep& step) override {
    set_kept_rows(step, [&](const StepRow& row, int32_t newcomer) {
      auto& state =
          static_cast<KeepingState&>(step.sequences[static_cast<size_t>(row.sequence)].state);
      const auto mass = state.mass(step.layer, row.head);
      int32_t least = newcomer;
      for (const int32_t page : state.selected(step.layer, row.head)) {
        if (mass[static_cast<size_t>(page)] < mass[static_cast<size_t>(least)]) least = page;
      }
      return least;
    });
  }

  void after_attention(LayerStep& step) override {
    for_rows(
        step,
        [&](const StepRow& row) {
          SequenceCache& cache = step.sequences[static_cast<size_t>(row.sequence)].cache;
          return cache.layer(step.layer).plan().budgeted;
        },
        [&](const StepRow& row) {
          auto& state =
              static_cast<KeepingState&>(step.sequences[static_cast<size_t>(row.sequence)].state);
          const auto mass = state.mass(step.layer, row.head);
          for_page_masses(step, row, [&](int32_t page, double part) {
            mass[static_cast<size_t>(page)] += part;
          });
        });
  }

 private:
  CacheNeeds needs_;
};

}  // namespace

PolicyDescriptor describe_h2o() {
  return {
      "h2o",
      "recent tokens and those of most attention so far, the rest is dropped (H2O, NeurIPS 2023)",
      {{"recent", "0.5", "part of the budget that is the recent window"},
       {"observe", "0", "last prompt tokens whose attention counts (0: all)"}},
      [](const PolicyOptions& options) { return std::make_unique<H2oPolicy>(options); }};
}

}  // namespace freekv
