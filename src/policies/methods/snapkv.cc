// snapkv: the queries of the prompt's last tokens vote for the tokens before them, and what they
// attend to most, with its neighbours, is all of the prompt that stays (SnapKV, NeurIPS 2024, arXiv
// 2404.14469, section 4).
//
// Kept are pages, not tokens: those whose tokens' votes, each the largest of its neighbourhood, add
// up to most. The paper keeps every generated token beside the prompt's and so grows without bound;
// within a budget, tokens that leave the window are dropped.
#include <algorithm>

#include "device/buffer.hpp"
#include "policies/keeping.hpp"
#include "policies/policy.hpp"

namespace freekv {
namespace {

class SnapKvState final : public KeepingState {
 public:
  SnapKvState(const CacheConfig& config, const CacheNeeds& needs)
      : KeepingState(config, needs),
        heads_(static_cast<size_t>(config.shape.heads)),
        tokens_(config.max_context > config.tokens.budget
                    ? static_cast<size_t>(config.max_pages() * config.shape.page)
                    : 0),
        memory_(static_cast<size_t>(config.layers) * heads_ * tokens_ * sizeof(double)) {}

  /// Votes for each token [max_pages * p], from the queries seen so far.
  std::span<double> votes(int layer, int head) {
    const size_t row = static_cast<size_t>(layer) * heads_ + static_cast<size_t>(head);
    return memory_.as<double>().subspan(row * tokens_, tokens_);
  }
  /// Those of all heads [M, max_pages * p].
  View<double, 2> layer_votes(int layer) {
    return View<double, 2>(votes(layer, 0).data(), heads_, tokens_);
  }
  void forget_votes() { memory_.discard(); }

 private:
  size_t heads_;
  size_t tokens_;
  Buffer memory_;
};

class SnapKvPolicy final : public Policy {
 public:
  explicit SnapKvPolicy(const PolicyOptions& options)
      : reach_(options.integer("kernel", 1, 1023) / 2) {
    needs_.fast = CacheNeeds::Fast::kBudget;
    needs_.observed = options.integer("observe", 1, 1 << 16);
  }

  CacheNeeds plan(const CacheConfig& config) const override {
    check_budget(config.tokens, config.shape.page);
    return needs_;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const override {
    return std::make_unique<SnapKvState>(config, needs_);
  }

  void on_queries(const PromptQueries& queries) override {
    if (!queries.sequence.cache.layer(queries.layer).plan().budgeted) return;
    auto& state = static_cast<SnapKvState&>(queries.sequence.state);
    queries.backend.prefill_mass(queries.ctx, {.q = queries.q,
                                               .pool = queries.pool,
                                               .slots = queries.slots,
                                               .position = queries.position,
                                               .scale = queries.scale,
                                               .mass = state.layer_votes(queries.layer),
                                               .unit = 1});
  }

  void on_prefill(ExecutionContext& ctx, Backend& backend,
                  const PolicySequence& sequence) override {
    auto& state = static_cast<SnapKvState&>(sequence.state);
    SequenceCache& cache = sequence.cache;
    if (cache.layout().over_budget(cache.tokens())) {
      for (int layer = 0; layer < cache.config().layers; ++layer) {
        for (int head = 0; head < cache.config().shape.heads; ++head) {
          const auto votes = state.votes(layer, head).first(static_cast<size_t>(cache.tokens()));
          add_up(votes, cache.config().shape.page, state.mass(layer, head));
        }
      }
    }
    keep_of_prompt(ctx, backend, sequence);
    state.forget_votes();
  }

  void pages_for(LayerStep& step) override {
    set_kept_rows(step, [](const StepRow&, int32_t newcomer) { return newcomer; });
  }

 private:
  // Max-pools the votes over neighbours and adds them up by page.
  void add_up(std::span<const double> votes, int page, std::span<double> mass) const {
    const auto n = static_cast<int64_t>(votes.size());
    for (int64_t t = 0; t < n; ++t) {
      const auto first = votes.begin() + std::max<int64_t>(0, t - reach_);
      const auto last = votes.begin() + std::min(n, t + reach_ + 1);
      mass[static_cast<size_t>(t / page)] += *std::max_element(first, last);
    }
  }

  CacheNeeds needs_;
  int64_t reach_;  // tokens on either side
};

}  // namespace

PolicyDescriptor describe_snapkv() {
  return {"snapkv",
          "what the prompt's last queries attend to, the rest is dropped (SnapKV, NeurIPS 2024)",
          {{"observe", "32", "last prompt tokens whose queries vote"},
           {"kernel", "7", "tokens over which a vote is pooled, by the largest"}},
          [](const PolicyOptions& options) { return std::make_unique<SnapKvPolicy>(options); }};
}

}  // namespace freekv
