// freekv: the whole KV in the slow tier; pages are selected with the previous step's query and
// recalled behind the model's computation, and heads whose query moved are corrected before
// attention (FreeKV, arXiv 2505.13109, section 4; algorithm.md, section 4).
#include <algorithm>

#include "core/check.hpp"
#include "kvcache/sketch.hpp"
#include "policies/policy.hpp"
#include "policies/retrieval.hpp"

namespace freekv {
namespace {

class FreeKvState final : public RetrievalState {
 public:
  FreeKvState(const CacheConfig& config, const CacheNeeds& needs)
      : RetrievalState(config, needs),
        heads_(config.shape.heads),
        group_(config.group()),
        dim_(config.shape.head_dim) {
    const auto layers = static_cast<size_t>(config.layers);
    const auto heads = static_cast<size_t>(heads_);
    started_.assign(layers, 0);
    previous_.resize(layers * query_size());
    similarity_.resize(heads);
    selects_now_.resize(heads);
    recall_ns_.resize(heads);
  }

  /// Whether this layer has a previous query, q_{i-1}.
  bool started(int layer) const { return started_[static_cast<size_t>(layer)] != 0; }
  View<const float, 3> previous(int layer) const {
    return View<const float, 3>(previous_.data() + static_cast<size_t>(layer) * query_size(),
                                heads_, group_, dim_);
  }
  void keep_query(int layer, const float* q) {
    std::copy_n(q, query_size(), previous_.data() + static_cast<size_t>(layer) * query_size());
    started_[static_cast<size_t>(layer)] = 1;
  }
  void restart() {
    std::fill(started_.begin(), started_.end(), uint8_t{0});
    forget();
  }

  View<float, 1> similarity() { return View<float, 1>(similarity_.data(), heads_); }
  /// Of the layer under way: the head selects with q_i and its misses block attention.
  uint8_t& selects_now(int head) { return selects_now_[static_cast<size_t>(head)]; }
  uint64_t& recall_ns(int head) { return recall_ns_[static_cast<size_t>(head)]; }
  int64_t heads() const { return heads_; }
  int64_t group() const { return group_; }
  int64_t dim() const { return dim_; }

 private:
  size_t query_size() const {
    return static_cast<size_t>(heads_) * static_cast<size_t>(group_) * static_cast<size_t>(dim_);
  }

  int heads_;
  int group_;
  int dim_;
  std::vector<uint8_t> started_;      // [layers]
  std::vector<float> previous_;       // [layers][M][G][d]
  std::vector<float> similarity_;     // [M]
  std::vector<uint8_t> selects_now_;  // [M]
  std::vector<uint64_t> recall_ns_;   // [M]
};

FreeKvState& state_of(const PolicySequence& sequence) {
  return static_cast<FreeKvState&>(sequence.state);
}

class FreeKvPolicy final : public Policy {
 public:
  explicit FreeKvPolicy(const PolicyOptions& options)
      // Any tau above 1 corrects every head in every step: blocking retrieval.
      : tau_(static_cast<float>(options.number("tau", -2, 2))),
        pooling_(parse_pooling(options.text("pooling"))) {
    needs_.fast = CacheNeeds::Fast::kBudget;
    needs_.slow = true;
    needs_.sketch = find_sketch(options.text("sketch")).name();
    needs_.dense_layers = static_cast<int>(options.integer("dense_layers", 0, 1024));
    needs_.resident_factor = options.number("resident", 1, 1024);
    needs_.recall = parse_recall(options.text("recall"));
  }

  CacheNeeds plan(const CacheConfig& config) const override {
    check_budget(config.tokens, config.shape.page);
    return needs_;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const override {
    return std::make_unique<FreeKvState>(config, needs_);
  }
  std::optional<RetrievalRule> device_rule() const override {
    const auto sketch = device_sketch(needs_.sketch);
    if (!sketch || needs_.recall != RecallMechanism::kGather) return std::nullopt;
    RetrievalRule rule;
    rule.budgeted = rule.slow = true;
    rule.selects = rule.speculative = true;
    rule.sketch = *sketch;
    rule.tau = tau_;
    rule.pooling = pooling_;
    rule.dense_layers = needs_.dense_layers;
    return rule;
  }
  void on_prefill(ExecutionContext&, Backend&, const PolicySequence& sequence) override {
    state_of(sequence).restart();
  }

  void pages_for(LayerStep& step) override {
    try {
      correct(step);
    } catch (...) {
      // A selection whose recall failed is not resident: start over, as after a prompt.
      for (const PolicySequence& sequence : step.sequences) state_of(sequence).restart();
      throw;
    }
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      if (!retrieves(step, {s, 0})) {
        set_dense_rows(step, s);
        continue;
      }
      FreeKvState& state = state_of(step.sequences[static_cast<size_t>(s)]);
      for (int head = 0; head < state.heads(); ++head) set_sparse_row(step, {s, head}, state);
    }
  }

  void after_attention(LayerStep& step) override {
    // For the next step: a page that leaves the window with the next token is a candidate already.
    select_rows(
        step, {pooling_, 1},
        [&](const StepRow& row) { return retrieves(step, row) && !selects_now(step, row); },
        [&](const StepRow& row) { plan_moves(step, row); });
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      if (!retrieves(step, {s, 0})) continue;
      const PolicySequence& sequence = step.sequences[static_cast<size_t>(s)];
      FreeKvState& state = state_of(sequence);
      LayerCache& layer = sequence.cache.layer(step.layer);
      count_selections(step, s, false);
      for (int head = 0; head < state.heads(); ++head) {
        if (!state.selects_now(head)) layer.recall_later(head, state.moves(head));
      }
      sequence.cache.submit_recall(step.layer);
      state.keep_query(step.layer, step.q[s * state.heads()].data());
    }
  }

 private:
  static bool retrieves(const LayerStep& step, const StepRow& row) {
    return step.sequences[static_cast<size_t>(row.sequence)].cache.retrieves(step.layer);
  }
  static bool selects_now(const LayerStep& step, const StepRow& row) {
    return state_of(step.sequences[static_cast<size_t>(row.sequence)]).selects_now(row.head) != 0;
  }

  // Steps 2 and 3: afterwards the selections of all heads are resident.
  void correct(LayerStep& step) const {
    bool any = false;
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      if (!retrieves(step, {s, 0})) continue;
      any = true;
      test_drift(step, s);
      // What was selected with q_{i-1} must have arrived before anything is planned or read.
      step.sequences[static_cast<size_t>(s)].cache.finish_recall(step.ctx, step.layer);
    }
    if (!any) return;
    select_rows(
        step, {pooling_, 0},
        [&](const StepRow& row) { return retrieves(step, row) && selects_now(step, row); },
        [&](const StepRow& row) {
          plan_moves(step, row);
          FreeKvState& state = state_of(step.sequences[static_cast<size_t>(row.sequence)]);
          state.recall_ns(row.head) = recall_blocking(step, row, state.moves(row.head));
        });
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      if (retrieves(step, {s, 0})) count_selections(step, s, true);
    }
  }

  // Step 2: which heads must select with q_i. Without a previous query all of them.
  void test_drift(LayerStep& step, int s) const {
    const PolicySequence& sequence = step.sequences[static_cast<size_t>(s)];
    FreeKvState& state = state_of(sequence);
    const auto heads = static_cast<int>(state.heads());
    if (!state.started(step.layer)) {
      for (int head = 0; head < heads; ++head) state.selects_now(head) = 1;
      return;
    }
    const View<const float, 3> q(step.q[s * state.heads()].data(), state.heads(), state.group(),
                                 state.dim());
    step.backend.mean_cosine(step.ctx, q, state.previous(step.layer), state.similarity());
    RetrievalStats& stats = sequence.cache.stats();
    for (int head = 0; head < heads; ++head) {
      // A similarity that is no number counts as drifted.
      const bool drifted = !(state.similarity()[head] >= tau_);
      state.selects_now(head) = drifted;
      ++stats.corrections_tested;
      if (drifted) ++stats.drifted_by_layer[static_cast<size_t>(step.layer)];
    }
  }

  // What of the row's selection must move, and to which slots.
  static void plan_moves(const LayerStep& step, const StepRow& row) {
    const PolicySequence& sequence = step.sequences[static_cast<size_t>(row.sequence)];
    FreeKvState& state = state_of(sequence);
    const auto moves = sequence.cache.layer(step.layer)
                           .make_resident(row.head, state.selected(step.layer, row.head),
                                          state.move_room(row.head));
    state.set_moves(row.head, moves.size());
  }

  // Counts the selections made before attention, or those made after it.
  static void count_selections(const LayerStep& step, int s, bool before) {
    const PolicySequence& sequence = step.sequences[static_cast<size_t>(s)];
    FreeKvState& state = state_of(sequence);
    RetrievalStats& stats = sequence.cache.stats();
    uint64_t longest = 0;
    for (int head = 0; head < state.heads(); ++head) {
      if ((state.selects_now(head) != 0) != before) continue;
      const uint64_t pages = state.selected(step.layer, head).size();
      const uint64_t misses = state.moves(head).size();
      ++stats.selections;
      stats.pages_selected += pages;
      stats.hits += pages - misses;
      (before ? stats.misses_before : stats.misses_after) += misses;
      stats.bytes_recalled += misses * sequence.cache.config().shape.head_page_bytes();
      if (before) longest = std::max(longest, state.recall_ns(head));
    }
    // Heads are recalled side by side, so attention waited for the longest of them.
    stats.wait_ns += longest;
  }

  CacheNeeds needs_;
  float tau_;
  Pooling pooling_;
};

}  // namespace

PolicyDescriptor describe_freekv() {
  return {
      "freekv",
      "speculative retrieval from the slow tier, corrected per head (FreeKV, ICLR 2026)",
      {{"tau", "0.8", "heads whose query is less similar than this select again; above 1: always"},
       {"sketch", "minmax", "page sketch: " + sketch_names()},
       {"pooling", "mean_softmax",
        "over the group: mean_softmax, max_softmax, mean_score, max_score"},
       {"dense_layers", "0", "first layers that keep and attend to everything (the paper: 1)"},
       {"resident", "1",
        "fast-tier pages per head for selections, as a multiple of those selected"},
       {"recall", "gather", "gather (one pass) or streamed (two staging buffers)"}},
      [](const PolicyOptions& options) { return std::make_unique<FreeKvPolicy>(options); }};
}

}  // namespace freekv
