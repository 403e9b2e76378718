// oracle: the pages of most attention mass under the current query, from the keys themselves, all
// of which stay in fast memory. What a selection of this budget can reach at best; it reads every
// key, so it is for tests and evaluation.
#include "policies/policy.hpp"
#include "policies/retrieval.hpp"

namespace freekv {
namespace {

class OracleState final : public RetrievalState {
 public:
  OracleState(const CacheConfig& config, const CacheNeeds& needs) : RetrievalState(config, needs) {
    lost_mass_.resize(static_cast<size_t>(config.shape.heads));
  }
  double& lost_mass(int head) { return lost_mass_[static_cast<size_t>(head)]; }

 private:
  std::vector<double> lost_mass_;
};

class OraclePolicy final : public Policy {
 public:
  explicit OraclePolicy(const PolicyOptions& options) {
    needs_.dense_layers = static_cast<int>(options.integer("dense_layers", 0, 1024));
  }

  CacheNeeds plan(const CacheConfig& config) const override {
    check_budget(config.tokens, config.shape.page);
    return needs_;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const override {
    return std::make_unique<OracleState>(config, needs_);
  }

  void pages_for(LayerStep& step) override {
    const auto sequence_of = [&](int s) -> const PolicySequence& {
      return step.sequences[static_cast<size_t>(s)];
    };
    select_rows(
        step, {Pooling::kMeanSoftmax, 0, SelectBy::kExactMass},
        [&](const StepRow& row) { return sequence_of(row.sequence).cache.retrieves(step.layer); },
        [&](const StepRow& row) {
          auto& state = static_cast<OracleState&>(sequence_of(row.sequence).state);
          const auto selected = state.selected(step.layer, row.head);
          set_sparse_row(step, row, state, selected);
          state.lost_mass(row.head) = lost_mass(step, row, selected);
        });
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      SequenceCache& cache = sequence_of(s).cache;
      if (!cache.retrieves(step.layer)) {
        set_dense_rows(step, s);
        continue;
      }
      auto& state = static_cast<OracleState&>(sequence_of(s).state);
      RetrievalStats& stats = cache.stats();
      for (int head = 0; head < cache.config().shape.heads; ++head) {
        // Everything is in fast memory, so all that is selected is a hit.
        const size_t pages = state.selected(step.layer, head).size();
        ++stats.selections;
        stats.pages_selected += pages;
        stats.hits += pages;
        stats.lost_mass_sum += state.lost_mass(head);
        ++stats.lost_mass_count;
      }
    }
  }

 private:
  CacheNeeds needs_;
};

}  // namespace

PolicyDescriptor describe_oracle() {
  return {"oracle",
          "the pages of most attention mass, from all keys: the best selection of this budget",
          {{"dense_layers", "0", "first layers that attend to everything"}},
          [](const PolicyOptions& options) { return std::make_unique<OraclePolicy>(options); }};
}

}  // namespace freekv
