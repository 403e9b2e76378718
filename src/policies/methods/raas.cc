// raas: a page that attention has used stays until its last use is the oldest. A page's use is
// significant when more than alpha of the attention goes to it; when a page leaves the window, the
// kept page of oldest significant use is dropped for good (RaaS, ACL 2025, arXiv 2502.11147,
// section 3).
//
// The paper estimates a page's share from bounds of its keys; attention has read the pages anyway,
// so the share is exact here. It keeps a prompt whole: `pin_prompt` does so where the prompt fits
// beside the window. A prompt beyond the budget has no rule there: of its pages those are kept that
// its last query attends to most.
#include <algorithm>

#include "policies/keeping.hpp"
#include "policies/policy.hpp"

namespace freekv {
namespace {

// The mass of KeepingState is, for each page, the token at which it was last used; -1 never.
class RaasState final : public KeepingState {
 public:
  using KeepingState::KeepingState;
  int32_t pinned_pages = 0;  // the prompt's, if they are never dropped
};

class RaasPolicy final : public Policy {
 public:
  explicit RaasPolicy(const PolicyOptions& options)
      : alpha_(options.number("alpha", 0, 1)),
        pin_prompt_(options.integer("pin_prompt", 0, 1) != 0) {
    needs_.fast = CacheNeeds::Fast::kBudget;
    needs_.observed = 1;
  }

  CacheNeeds plan(const CacheConfig& config) const override {
    check_budget(config.tokens, config.shape.page);
    return needs_;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const override {
    return std::make_unique<RaasState>(config, needs_);
  }

  void on_queries(const PromptQueries& queries) override { add_prompt_mass(queries); }

  void on_prefill(ExecutionContext& ctx, Backend& backend,
                  const PolicySequence& sequence) override {
    keep_of_prompt(ctx, backend, sequence);
    auto& state = static_cast<RaasState&>(sequence.state);
    SequenceCache& cache = sequence.cache;
    const PageLayout& layout = cache.layout();
    const int32_t pages = layout.pages(cache.tokens());
    const bool fits = pages <= layout.sink_pages() + layout.selected();
    state.pinned_pages = pin_prompt_ && fits ? pages : 0;
    for (int layer = 0; layer < cache.config().layers; ++layer) {
      for (int head = 0; head < cache.config().shape.heads; ++head) {
        for (double& mass : state.mass(layer, head)) {
          mass = mass > alpha_ ? static_cast<double>(cache.tokens() - 1) : -1;
        }
      }
    }
  }

  void pages_for(LayerStep& step) override {
    set_kept_rows(step, [&](const StepRow& row, int32_t newcomer) {
      auto& state =
          static_cast<RaasState&>(step.sequences[static_cast<size_t>(row.sequence)].state);
      const auto used = state.mass(step.layer, row.head);
      // Of pages used as long ago the first goes; the newcomer when all others are pinned.
      int32_t oldest = newcomer;
      for (const int32_t page : state.selected(step.layer, row.head)) {
        const double use = used[static_cast<size_t>(page)];
        const double least = used[static_cast<size_t>(oldest)];
        const bool older = oldest == newcomer ? use <= least : use < least;
        if (page >= state.pinned_pages && older) oldest = page;
      }
      return oldest;
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
          const PolicySequence& sequence = step.sequences[static_cast<size_t>(row.sequence)];
          const auto used = static_cast<RaasState&>(sequence.state).mass(step.layer, row.head);
          for_page_masses(step, row, [&](int32_t page, double part) {
            if (part > alpha_) {
              used[static_cast<size_t>(page)] = static_cast<double>(sequence.cache.tokens());
            }
          });
        });
  }

 private:
  CacheNeeds needs_;
  double alpha_;
  bool pin_prompt_;
};

}  // namespace

PolicyDescriptor describe_raas() {
  return {"raas",
          "the page whose last significant use is oldest is dropped (RaaS, ACL 2025)",
          {{"alpha", "0.0001", "attention mass above which a page counts as used"},
           {"pin_prompt", "1",
            "1: a prompt that fits beside the window is never dropped, 0: it may be"}},
          [](const PolicyOptions& options) { return std::make_unique<RaasPolicy>(options); }};
}

}  // namespace freekv
