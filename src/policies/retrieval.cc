#include "policies/retrieval.hpp"

#include <algorithm>
#include <array>
#include <numeric>

#include "core/check.hpp"

namespace freekv {
namespace {

template <typename T>
std::span<T> part(std::vector<T>& all, size_t index, size_t size) {
  return std::span<T>(all).subspan(index * size, size);
}

}  // namespace

RetrievalState::RetrievalState(const CacheConfig& config, const CacheNeeds& needs)
    : heads_(config.shape.heads) {
  const PageLayout layout(config, needs);
  const auto heads = static_cast<size_t>(heads_);
  // A context within the budget never selects, and takes nothing.
  const bool retrieves = config.max_context > config.tokens.budget;
  selected_max_ = retrieves ? static_cast<size_t>(layout.selected()) : 0;
  candidates_max_ = retrieves ? static_cast<size_t>(config.max_pages()) : 0;
  attended_max_ = retrieves ? static_cast<size_t>(layout.attended_pages()) : 0;
  scores_per_head_ = static_cast<size_t>(config.group()) * candidates_max_;
  pages_.resize(static_cast<size_t>(config.layers) * heads * selected_max_);
  page_counts_.resize(static_cast<size_t>(config.layers) * heads);
  scores_.resize(heads * scores_per_head_);
  pooled_.resize(heads * candidates_max_);
  moves_.resize(heads * selected_max_);
  move_counts_.resize(heads);
  row_slots_.resize(heads * attended_max_);
}

size_t RetrievalState::row(int layer, int head) const {
  return static_cast<size_t>(layer) * static_cast<size_t>(heads_) + static_cast<size_t>(head);
}

std::span<const int32_t> RetrievalState::selected(int layer, int head) const {
  const size_t at = row(layer, head);
  return std::span(pages_).subspan(at * selected_max_, page_counts_[at]);
}

void RetrievalState::select_scored(Backend& backend, int layer, const SelectionParams& params) {
  const size_t at = row(layer, params.head);
  page_counts_[at] = static_cast<size_t>(freekv::select_scored(
      backend, params, scratch(params.head), part(pages_, at, selected_max_)));
}

void RetrievalState::select_range(int layer, int head, int32_t first) {
  const size_t at = row(layer, head);
  page_counts_[at] = selected_max_;
  const auto out = part(pages_, at, selected_max_);
  std::iota(out.begin(), out.end(), first);
}

void RetrievalState::exchange(int layer, int head, int32_t victim, int32_t newcomer) {
  const size_t at = row(layer, head);
  const auto pages = part(pages_, at, selected_max_).first(page_counts_[at]);
  const auto found = std::find(pages.begin(), pages.end(), victim);
  check_internal(found != pages.end(), "page {} of head {} leaves but is not selected", victim,
                 head);
  std::rotate(found, found + 1, pages.end());
  pages.back() = newcomer;
}

void RetrievalState::select_worthiest(Backend& backend, int layer, int head,
                                      const PageWorth& worth) {
  const size_t at = row(layer, head);
  const auto out =
      part(pages_, at, selected_max_).first(std::min(selected_max_, worth.values.size()));
  page_counts_[at] = out.size();
  backend.top_k(View<const float, 1>(worth.values.data(), worth.values.size()), out);
  for (int32_t& page : out) page += worth.first;
}

SelectionScratch RetrievalState::scratch(int head) {
  const auto h = static_cast<size_t>(head);
  return {part(scores_, h, scores_per_head_), part(pooled_, h, candidates_max_)};
}

std::span<PageMove> RetrievalState::move_room(int head) {
  return part(moves_, static_cast<size_t>(head), selected_max_);
}

std::span<PageMove> RetrievalState::moves(int head) {
  return move_room(head).first(move_counts_[static_cast<size_t>(head)]);
}

std::span<int32_t> RetrievalState::row_slots(int head) {
  return part(row_slots_, static_cast<size_t>(head), attended_max_);
}

void RetrievalState::forget() { std::fill(page_counts_.begin(), page_counts_.end(), size_t{0}); }

namespace {

// Calls body(rows) with the wanted rows, in several rounds where they are many: a fixed array holds
// them, since a step takes no memory.
void in_rounds(const LayerStep& step, FunctionRef<bool(const StepRow&)> wanted,
               FunctionRef<void(std::span<const StepRow>)> body) {
  std::array<StepRow, 256> rows;
  size_t count = 0;
  for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
    const int heads = step.sequences[static_cast<size_t>(s)].cache.config().shape.heads;
    for (int head = 0; head < heads; ++head) {
      const StepRow row{s, head};
      if (!wanted(row)) continue;
      rows[count++] = row;
      if (count == rows.size()) body(rows);
      count %= rows.size();
    }
  }
  if (count > 0) body(std::span(rows).first(count));
}

// Workers take equal shares of the rows, however these are spread over the batch.
void on_workers(const LayerStep& step, std::span<const StepRow> rows,
                FunctionRef<void(const StepRow&)> body) {
  step.ctx.pool().parallel_for(static_cast<int64_t>(rows.size()), 1,
                               [&](int64_t begin, int64_t end, int) {
                                 for (int64_t i = begin; i < end; ++i) {
                                   body(rows[static_cast<size_t>(i)]);
                                 }
                               });
}

RetrievalState& state_of(const LayerStep& step, const StepRow& row) {
  return static_cast<RetrievalState&>(step.sequences[static_cast<size_t>(row.sequence)].state);
}

SelectionParams selection_of(const LayerStep& step, SelectionRule rule, const StepRow& row) {
  SequenceCache& cache = step.sequences[static_cast<size_t>(row.sequence)].cache;
  return {&cache.layer(step.layer).sketches(),
          row.head,
          row_query(step, row),
          cache.layout().candidates(cache.tokens() + 1 + rule.ahead),
          rule.pooling,
          step.scale};
}

// Cuts the candidates of all rows, laid end to end, into one part per worker.
void score_rows(const LayerStep& step, SelectionRule rule, std::span<const StepRow> rows) {
  // Whole blocks of sketches, and enough of them to be worth another thread.
  constexpr int64_t kGrain = 8 * BoxSketchView::kBlockPages;
  const auto candidates = [&](const StepRow& row) -> int64_t {
    const SelectionParams params = selection_of(step, rule, row);
    const size_t wanted = state_of(step, row).wanted();
    return has_choice(params, wanted) ? params.candidates.size() : 0;
  };
  int64_t total = 0;
  for (const StepRow& row : rows) total += candidates(row);
  step.ctx.pool().parallel_for(total, kGrain, [&](int64_t begin, int64_t end, int) {
    int64_t first = 0;
    for (const StepRow& row : rows) {
      const int64_t last = first + candidates(row);
      const int64_t from = std::max(begin, first), to = std::min(end, last);
      if (from < to) {
        score_candidates(step.backend, selection_of(step, rule, row),
                         state_of(step, row).scratch(row.head), static_cast<int32_t>(from - first),
                         static_cast<int32_t>(to - first));
      }
      first = last;
    }
  });
}

}  // namespace

void for_rows(const LayerStep& step, FunctionRef<bool(const StepRow&)> wanted,
              FunctionRef<void(const StepRow&)> body) {
  in_rounds(step, wanted, [&](std::span<const StepRow> rows) { on_workers(step, rows, body); });
}

void select_rows(const LayerStep& step, SelectionRule rule,
                 FunctionRef<bool(const StepRow&)> wanted, FunctionRef<void(const StepRow&)> body) {
  in_rounds(step, wanted, [&](std::span<const StepRow> rows) {
    score_rows(step, rule, rows);
    on_workers(step, rows, [&](const StepRow& row) {
      state_of(step, row).select_scored(step.backend, step.layer, selection_of(step, rule, row));
      body(row);
    });
  });
}

size_t row_index(const LayerStep& step, const StepRow& row) {
  const auto s = static_cast<size_t>(row.sequence);
  const int heads = step.sequences[s].cache.config().shape.heads;
  return s * static_cast<size_t>(heads) + static_cast<size_t>(row.head);
}

View<const float, 2> row_query(const LayerStep& step, const StepRow& row) {
  return step.q[static_cast<int64_t>(row_index(step, row))];
}

void set_dense_rows(LayerStep& step, int sequence) {
  const SequenceCache& cache = step.sequences[static_cast<size_t>(sequence)].cache;
  for (int head = 0; head < cache.config().shape.heads; ++head) {
    step.rows[row_index(step, {sequence, head})] = cache.dense_row(step.layer, head);
  }
}

void set_sparse_row(LayerStep& step, const StepRow& row, RetrievalState& state) {
  const SequenceCache& cache = step.sequences[static_cast<size_t>(row.sequence)].cache;
  step.rows[row_index(step, row)] = cache.sparse_row(
      step.layer, row.head, state.selected(step.layer, row.head), state.row_slots(row.head));
}

}  // namespace freekv
