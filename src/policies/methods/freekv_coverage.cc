// freekv-coverage: as freekv, but corrected by what is missing instead of by how far the query
// moved. The sketches estimate the attention mass of every page under the current query; attention
// waits for the heaviest missing pages until what is missing weighs less than epsilon, and the rest
// is recalled behind it for the next step (algorithm.md, section 6; ours). With a sketch that has
// values, pages that are not attended to count with their estimated mass and mean value.
#include <algorithm>

#include "core/check.hpp"
#include "kvcache/sketch.hpp"
#include "policies/policy.hpp"
#include "policies/retrieval.hpp"

namespace freekv {
namespace {

/// A selected page that is not in the fast tier.
struct MissingPage {
  float mass = 0;
  int32_t page = 0;
};

/// What became of one head's selection in the layer under way.
struct Coverage {
  size_t selected = 0;
  size_t missing = 0;
  size_t recalled = 0;  // of the missing ones, before attention
  size_t attended = 0;
  double lost_mass = 0;
  uint64_t recall_ns = 0;
};

class CoverageState final : public RetrievalState {
 public:
  CoverageState(const CacheConfig& config, const CacheNeeds& needs)
      : RetrievalState(config, needs), heads_(config.shape.heads) {
    const auto heads = static_cast<size_t>(heads_);
    last_.resize(static_cast<size_t>(config.layers) * heads * wanted());
    last_counts_.resize(static_cast<size_t>(config.layers) * heads);
    missing_.resize(heads * wanted());
    present_.resize(heads * wanted());
    attended_.resize(heads * 2 * wanted());
    coverage_.resize(heads);
  }

  int heads() const { return heads_; }
  /// The selection becomes the last one, before the next is made.
  void keep_selection(int layer, int head) {
    const auto pages = selected(layer, head);
    const size_t at = row(layer, head);
    std::copy(pages.begin(), pages.end(), last_.begin() + static_cast<ptrdiff_t>(at * wanted()));
    last_counts_[at] = pages.size();
  }
  std::span<const int32_t> last(int layer, int head) const {
    const size_t at = row(layer, head);
    return std::span(last_).subspan(at * wanted(), last_counts_[at]);
  }
  /// Room for the missing pages of a selection, for those present after correction, and for all
  /// that is attended to.
  std::span<MissingPage> missing_room(int head) { return part(missing_, head, wanted()); }
  std::span<int32_t> present_room(int head) { return part(present_, head, wanted()); }
  std::span<int32_t> attended_room(int head) { return part(attended_, head, 2 * wanted()); }
  Coverage& coverage(int head) { return coverage_[static_cast<size_t>(head)]; }

 private:
  size_t row(int layer, int head) const {
    return static_cast<size_t>(layer) * static_cast<size_t>(heads_) + static_cast<size_t>(head);
  }
  template <typename T>
  static std::span<T> part(std::vector<T>& all, int head, size_t size) {
    return std::span<T>(all).subspan(static_cast<size_t>(head) * size, size);
  }

  int heads_;
  std::vector<int32_t> last_;         // [layers][heads][k]
  std::vector<size_t> last_counts_;   // [layers][heads]
  std::vector<MissingPage> missing_;  // [heads][k]
  std::vector<int32_t> present_;      // [heads][k]
  std::vector<int32_t> attended_;     // [heads][2k]
  std::vector<Coverage> coverage_;    // [heads]
};

CoverageState& state_of(const LayerStep& step, int s) {
  return static_cast<CoverageState&>(step.sequences[static_cast<size_t>(s)].state);
}

SequenceCache& cache_of(const LayerStep& step, int s) {
  return step.sequences[static_cast<size_t>(s)].cache;
}

/// Lists the selected pages that are missing, heaviest first, and returns how many.
size_t list_missing(const LayerCache& layer, int head, std::span<const int32_t> selected,
                    std::span<const float> mass, std::span<MissingPage> missing) {
  size_t count = 0;
  for (const int32_t page : selected) {
    if (layer.table().slot_of(head, page) >= 0) continue;
    // What is no number is taken for all there is, so that it is recalled.
    const float known = mass[static_cast<size_t>(page)];
    missing[count++] = {known >= 0 ? known : 1, page};
  }
  std::sort(missing.begin(), missing.begin() + static_cast<ptrdiff_t>(count),
            [](const MissingPage& a, const MissingPage& b) {
              return a.mass != b.mass ? a.mass > b.mass : a.page < b.page;
            });
  return count;
}

/// How many of the missing pages, heaviest first, must be recalled so that the others weigh less
/// than epsilon. With epsilon 0 that is all of them, also those of no mass.
size_t pages_to_wait_for(std::span<const MissingPage> missing, double epsilon) {
  double left = 0;
  size_t count = missing.size();
  while (count > 0 && left + missing[count - 1].mass < epsilon) left += missing[--count].mass;
  return count;
}

class CoveragePolicy final : public Policy {
 public:
  explicit CoveragePolicy(const PolicyOptions& options)
      : epsilon_(options.number("epsilon", 0, 1)) {
    const Sketch& sketch = find_sketch(options.text("sketch"));
    check_argument(sketch.score_kind() == ScoreKind::kLogMass,
                   "sketch is '{}', must estimate attention mass: {}", sketch.name(),
                   mass_sketch_names());
    has_values_ = sketch.has_values();
    needs_.fast = CacheNeeds::Fast::kBudget;
    needs_.slow = true;
    needs_.sketch = sketch.name();
    needs_.dense_layers = static_cast<int>(options.integer("dense_layers", 0, 1024));
    needs_.resident_factor = options.number("resident", 1, 1024);
    needs_.attended_selections = 2;  // this step's and the last one's
    needs_.recall = parse_recall(options.text("recall"));
  }

  CacheNeeds plan(const CacheConfig& config) const override {
    check_budget(config.tokens, config.shape.page);
    return needs_;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const override {
    return std::make_unique<CoverageState>(config, needs_);
  }
  void on_prefill(ExecutionContext&, Backend&, const PolicySequence& sequence) override {
    static_cast<CoverageState&>(sequence.state).forget();
  }

  std::optional<RetrievalRule> device_rule() const override {
    if (needs_.sketch != "key2" || needs_.recall != RecallMechanism::kGather) return std::nullopt;
    RetrievalRule rule;
    rule.budgeted = rule.slow = true;
    rule.selects = rule.speculative = rule.coverage = true;
    rule.epsilon = epsilon_;
    rule.sketch = SketchKind::kKey2;
    rule.dense_layers = needs_.dense_layers;
    return rule;
  }

  void pages_for(LayerStep& step) override {
    try {
      select(step);
    } catch (...) {
      // A selection whose recall failed is not resident: start over, as after a prompt.
      for (const PolicySequence& sequence : step.sequences) {
        static_cast<CoverageState&>(sequence.state).forget();
      }
      throw;
    }
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      if (retrieves(step, {s, 0})) {
        count_selections(step, s);
      } else {
        set_dense_rows(step, s);
      }
    }
  }

  void after_attention(LayerStep& step) override {
    if (has_values_) {
      for_rows(
          step, [&](const StepRow& row) { return retrieves(step, row); },
          [&](const StepRow& row) {
            CoverageState& state = state_of(step, row.sequence);
            add_unattended(step, row,
                           state.attended_room(row.head).first(state.coverage(row.head).attended));
          });
    }
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      if (!retrieves(step, {s, 0})) continue;
      CoverageState& state = state_of(step, s);
      LayerCache& layer = cache_of(step, s).layer(step.layer);
      for (int head = 0; head < state.heads(); ++head) {
        const Coverage& coverage = state.coverage(head);
        if (coverage.recalled == coverage.missing) continue;
        layer.recall_later(head, layer.make_resident(head, state.selected(step.layer, head),
                                                     state.move_room(head)));
      }
      cache_of(step, s).submit_recall(step.layer);
    }
  }

 private:
  static bool retrieves(const LayerStep& step, const StepRow& row) {
    return cache_of(step, row.sequence).retrieves(step.layer);
  }

  void select(LayerStep& step) const {
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      if (!retrieves(step, {s, 0})) continue;
      // What was left to the last step must have arrived before anything is planned or read.
      cache_of(step, s).finish_recall(step.ctx, step.layer);
      CoverageState& state = state_of(step, s);
      for (int head = 0; head < state.heads(); ++head) state.keep_selection(step.layer, head);
    }
    select_rows(
        step, {Pooling::kMeanSoftmax, 0, SelectBy::kMass},
        [&](const StepRow& row) { return retrieves(step, row); },
        [&](const StepRow& row) { cover(step, row); });
  }

  // Recalls what must not be missing, and gives the row all of this selection and of the last one
  // that is resident then.
  void cover(LayerStep& step, const StepRow& row) const {
    CoverageState& state = state_of(step, row.sequence);
    LayerCache& layer = cache_of(step, row.sequence).layer(step.layer);
    const int head = row.head;
    const auto selected = state.selected(step.layer, head);
    const auto missing = state.missing_room(head).first(
        list_missing(layer, head, selected, state.page_mass(head), state.missing_room(head)));
    const size_t recalled = pages_to_wait_for(missing, epsilon_);

    // Of the selection, those present after that.
    const auto room = state.present_room(head);
    auto end = std::copy_if(selected.begin(), selected.end(), room.begin(),
                            [&](int32_t page) { return layer.table().slot_of(head, page) >= 0; });
    for (const MissingPage& each : missing.first(recalled)) *end++ = each.page;
    std::sort(room.begin(), end);
    const auto present = room.first(static_cast<size_t>(end - room.begin()));
    const auto moves = layer.make_resident(head, present, state.move_room(head));
    const uint64_t recall_ns = recall_blocking(step, row, moves);

    const auto attended =
        merge_last(layer, head, present, state.last(step.layer, head), state.attended_room(head));
    set_sparse_row(step, row, state, attended);
    state.coverage(head) = {
        selected.size(), missing.size(), recalled, attended.size(), lost_mass(step, row, attended),
        recall_ns};
  }

  // `present` and the resident pages of `last`, ascending.
  static std::span<const int32_t> merge_last(const LayerCache& layer, int head,
                                             std::span<const int32_t> present,
                                             std::span<const int32_t> last,
                                             std::span<int32_t> room) {
    const auto end =
        std::set_union(present.begin(), present.end(), last.begin(), last.end(), room.begin());
    const auto kept = std::remove_if(
        room.begin(), end, [&](int32_t page) { return layer.table().slot_of(head, page) < 0; });
    return room.first(static_cast<size_t>(kept - room.begin()));
  }

  static void count_selections(const LayerStep& step, int s) {
    CoverageState& state = state_of(step, s);
    SequenceCache& cache = cache_of(step, s);
    RetrievalStats& stats = cache.stats();
    uint64_t longest = 0;
    for (int head = 0; head < state.heads(); ++head) {
      const Coverage& each = state.coverage(head);
      ++stats.selections;
      ++stats.corrections_tested;
      if (each.recalled > 0) ++stats.drifted_by_layer[static_cast<size_t>(step.layer)];
      stats.pages_selected += each.selected;
      stats.hits += each.selected - each.missing;
      stats.misses_before += each.recalled;
      stats.misses_after += each.missing - each.recalled;
      stats.bytes_recalled += each.missing * cache.config().shape.head_page_bytes();
      stats.lost_mass_sum += each.lost_mass;
      ++stats.lost_mass_count;
      longest = std::max(longest, each.recall_ns);
    }
    // Heads are recalled side by side, so attention waited for the longest of them.
    stats.wait_ns += longest;
  }

  CacheNeeds needs_;
  double epsilon_;
  bool has_values_ = false;
};

}  // namespace

PolicyDescriptor describe_freekv_coverage() {
  return {"freekv-coverage",
          "retrieval from the slow tier, corrected by the attention mass of what is missing (ours)",
          {{"epsilon", "0.07",
            "attention mass of selected pages that may be missing; 0: wait for all of them"},
           {"sketch", "key2",
            "page sketch that estimates attention mass: " + mass_sketch_names() +
                "; with values, pages not attended to count with theirs"},
           {"dense_layers", "0", "first layers that keep and attend to everything"},
           {"resident", "1",
            "fast-tier pages per head for selections, as a multiple of those selected"},
           {"recall", "gather", "gather (one pass) or streamed (two staging buffers)"}},
          [](const PolicyOptions& options) { return std::make_unique<CoveragePolicy>(options); }};
}

}  // namespace freekv
