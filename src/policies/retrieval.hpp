// What policies that select pages share: memory for selections, and the walk over a batch's rows.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "core/function_ref.hpp"
#include "kvcache/page_table.hpp"
#include "kvcache/selection.hpp"
#include "policies/policy.hpp"

namespace freekv {

/// Selections of one sequence, per (layer, KV head), and working memory per KV head, so that the
/// heads of a sequence can be worked on at once.
class RetrievalState : public PolicyState {
 public:
  RetrievalState(const CacheConfig& config, const CacheNeeds& needs);

  /// The pages selected last, ascending.
  std::span<const int32_t> selected(int layer, int head) const;
  /// Selects the pages of a layer's head from scored candidates (selection.hpp).
  void select_scored(Backend& backend, int layer, const SelectionParams& params);
  /// Selects wanted() pages from `first` on.
  void select_range(int layer, int head, int32_t first);
  /// Selects `newcomer`, which is after all selected pages, in place of one of them.
  void exchange(int layer, int head, int32_t victim, int32_t newcomer);
  /// Selects the pages of highest worth among all that have a value.
  void select_worthiest(Backend& backend, int layer, int head, const PageWorth& worth);
  /// How many pages a selection takes, and the memory that one of `head` needs.
  size_t wanted() const { return selected_max_; }
  SelectionScratch scratch(int head);
  /// Candidates of `head` that a sketch's first stage left; set by select_rows().
  std::span<int32_t> listed(int head);
  void set_listed(int head, size_t count) { listed_counts_[static_cast<size_t>(head)] = count; }
  /// After a selection by mass: the attention mass of page i of `head` in element i, the mean over
  /// the group; of all pages so far. Valid until the head's next selection.
  std::span<const float> page_mass(int head) const;

  /// The same of each query head [G, pages], but exp(l - highest(head, g)), l the logarithm of the
  /// mass before it is divided by the sum.
  View<float, 2> head_masses(int head, int64_t group, int64_t pages);
  float highest(int head, int64_t g) const;
  /// Before the scores of a selection by mass are pooled.
  void note_highest(int head, View<const float, 2> scores);

  /// Room for the misses of one selection of this head.
  std::span<PageMove> move_room(int head);
  /// Misses that the last make_resident() of this head found, kept in move_room().
  std::span<PageMove> moves(int head);
  void set_moves(int head, size_t count) { move_counts_[static_cast<size_t>(head)] = count; }
  /// Room for the slots that this head attends to in a step.
  std::span<int32_t> row_slots(int head);

  /// Forgets all selections.
  void forget();

  /// For states that keep what on_prefill came to, whatever is decoded afterwards: on_prefill notes
  /// it, rewind() is rewind_known(), and the on_prefill after that, of the same prompt, finds it
  /// known and leaves all as it is. Any other prompt is read anew.
  void note_known() { known_ = true; }
  bool rewind_known();
  bool is_known_again() { return std::exchange(rewound_, false); }

 private:
  size_t row(int layer, int head) const;

  int heads_;
  size_t selected_max_;
  size_t candidates_max_;
  size_t scores_per_head_;
  size_t listed_max_;
  size_t attended_max_;
  std::vector<int32_t> pages_;       // [layers][heads][k]
  std::vector<size_t> page_counts_;  // [layers][heads]
  bool known_ = false;
  bool rewound_ = false;
  std::vector<float> scores_;    // [heads][G * candidates]
  std::vector<float> pooled_;    // [heads][candidates]
  std::vector<float> highest_;   // [heads][G], where the sketch has values
  std::vector<int32_t> listed_;  // [heads][candidates] for sketches of two stages
  std::vector<size_t> listed_counts_;
  std::vector<PageMove> moves_;      // [heads][k]
  std::vector<size_t> move_counts_;  // [heads]
  std::vector<int32_t> row_slots_;   // [heads][attended pages]
};

/// One (sequence, KV head) of a step.
struct StepRow {
  int sequence = 0;
  int head = 0;
};

/// Calls body(row) on the workers, for every row of the step that `wanted` chooses. Each row is
/// one worker's. Takes no memory.
void for_rows(const LayerStep& step, FunctionRef<bool(const StepRow&)> wanted,
              FunctionRef<void(const StepRow&)> body);

/// What the rows of one selection go by.
enum class SelectBy : uint8_t {
  kSketch,     // the candidates' scores, pooled
  kMass,       // attention mass: of candidates as a kLogMass sketch estimates it, beside the exact
               // one of sink and window, the mean over the group
  kExactMass,  // attention mass from the keys of every page, all of which must be resident
};

/// How the rows of one selection choose.
struct SelectionRule {
  Pooling pooling = Pooling::kMeanSoftmax;
  /// Steps from now that the selection is for: 0, or 1 for the next token's.
  int ahead = 0;
  SelectBy by = SelectBy::kSketch;
};

/// Selects, with the step's queries, the pages of every row that `wanted` chooses, into its
/// RetrievalState; then calls body(row) as for_rows() does. Workers share the scoring by
/// candidates, since a batch has few rows and a long context many pages. Takes no memory.
void select_rows(const LayerStep& step, SelectionRule rule,
                 FunctionRef<bool(const StepRow&)> wanted, FunctionRef<void(const StepRow&)> body);

/// The row of the step's spans: sequence * M + head.
size_t row_index(const LayerStep& step, const StepRow& row);
/// q [G, d] of the row.
View<const float, 2> row_query(const LayerStep& step, const StepRow& row);

/// After a selection by mass: what the row loses that attends to sink, window and `pages`.
double lost_mass(const LayerStep& step, const StepRow& row, std::span<const int32_t> pages);

/// After attention to sink, window and `pages`, which a selection by mass chose from: lets all
/// other pages count with their estimated mass beside what was attended to, and with their mean
/// values. The layer's sketch has values. Takes no memory.
void add_unattended(const LayerStep& step, const StepRow& row, std::span<const int32_t> pages);

/// The sketch as a device knows it; nothing where only the host builds it.
std::optional<SketchKind> device_sketch(std::string_view name);
/// "gather" or "streamed"; throws Error(kInvalidArgument) for anything else.
RecallMechanism parse_recall(const std::string& name);
/// The nanoseconds that a call of body() takes.
uint64_t time_of(FunctionRef<void()> body);
/// Recalls the row's misses while attention waits, and returns the nanoseconds that took. On the
/// worker that planned them: they are few, and handing them to another thread would take longer
/// than copying them.
uint64_t recall_blocking(const LayerStep& step, const StepRow& row,
                         std::span<const PageMove> moves);

/// Gives all heads of the sequence the pages so far.
void set_dense_rows(LayerStep& step, int sequence);
/// Gives the row sink, its selected pages (or these, ascending) and the window.
void set_sparse_row(LayerStep& step, const StepRow& row, RetrievalState& state);
void set_sparse_row(LayerStep& step, const StepRow& row, RetrievalState& state,
                    std::span<const int32_t> pages);

}  // namespace freekv
