// razor: a few retrieval heads keep everything, all others sink and window (RazorAttention, arXiv
// 2407.15891, section 3). Which heads retrieve is measured once per model: `freekv profile-heads`.
//
// The window of the other heads takes all that the sink leaves of the budget, as that of
// `streaming` does. The paper adds a compensation token, the mean of what was dropped, weighted by
// its count; attention here knows no weights, so it is left out. Heads of a layer share the slots
// of the fast tier: a layer with a retrieval head keeps all pages, and only layers without one save
// memory.
#include <cmath>
#include <optional>

#include "policies/head_profile.hpp"
#include "policies/policy.hpp"
#include "policies/retrieval.hpp"

namespace freekv {
namespace {

class RazorState final : public RetrievalState {
 public:
  RazorState(const CacheConfig& config, const CacheNeeds& needs, std::vector<uint8_t> retrieval)
      : RetrievalState(config, needs),
        heads_(static_cast<size_t>(config.shape.heads)),
        retrieval_(std::move(retrieval)) {}
  bool keeps_all(int layer, int head) const {
    return retrieval_[static_cast<size_t>(layer) * heads_ + static_cast<size_t>(head)] != 0;
  }

 private:
  size_t heads_;
  std::vector<uint8_t> retrieval_;  // [layers][M]
};

class RazorPolicy final : public Policy {
 public:
  explicit RazorPolicy(const PolicyOptions& options)
      : induction_(options.number("induction", 0, 1)), echo_(options.number("echo", 0, 1)) {
    const std::string& profile = options.text("profile");
    if (profile == "demo") {
      profile_ = demo_head_profile();
    } else if (profile != "even") {
      profile_ = read_head_profile(profile);
    }
  }

  CacheNeeds plan(const CacheConfig& config) const override {
    check_budget(config.tokens, config.shape.page);
    CacheNeeds needs;
    needs.fast = CacheNeeds::Fast::kBudget;
    needs.selects = false;
    const auto retrieval = heads_of(config);
    const auto heads = static_cast<size_t>(config.shape.heads);
    needs.whole_layers.resize(static_cast<size_t>(config.layers));
    for (size_t i = 0; i < retrieval.size(); ++i) needs.whole_layers[i / heads] |= retrieval[i];
    return needs;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const override {
    return std::make_unique<RazorState>(config, plan(config), heads_of(config));
  }

  void pages_for(LayerStep& step) override {
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      const PolicySequence& sequence = step.sequences[static_cast<size_t>(s)];
      if (!sequence.cache.retrieves(step.layer)) {
        set_dense_rows(step, s);
        continue;
      }
      auto& state = static_cast<RazorState&>(sequence.state);
      for (int head = 0; head < sequence.cache.config().shape.heads; ++head) {
        if (state.keeps_all(step.layer, head)) {
          step.rows[row_index(step, {s, head})] = sequence.cache.dense_row(step.layer, head);
        } else {
          set_sparse_row(step, {s, head}, state);
        }
      }
    }
  }

 private:
  // [layers][M]
  std::vector<uint8_t> heads_of(const CacheConfig& config) const {
    if (profile_) {
      check_profile_shape(*profile_, config);
      return retrieval_heads(*profile_, induction_, echo_);
    }
    std::vector<uint8_t> heads(static_cast<size_t>(config.layers * config.shape.heads));
    const double part = std::min(1.0, induction_ + echo_);
    const auto count = static_cast<size_t>(std::ceil(part * static_cast<double>(heads.size())));
    for (size_t i = 0; i < count; ++i) heads[(2 * i + 1) * heads.size() / (2 * count)] = 1;
    return heads;
  }

  std::optional<HeadProfile> profile_;
  double induction_;
  double echo_;
};

}  // namespace

PolicyDescriptor describe_razor() {
  return {
      "razor",
      "retrieval heads keep everything, the others sink and window (RazorAttention, ICLR 2025)",
      {{"profile", "demo",
        "file of freekv profile-heads, demo (built in, of the demo model), or even (heads at even "
        "distances: a control that measured nothing)"},
       {"induction", "0.14", "part of the heads kept for their induction score"},
       {"echo", "0.01", "part of the heads kept for their echo score"}},
      [](const PolicyOptions& options) { return std::make_unique<RazorPolicy>(options); }};
}

}  // namespace freekv
