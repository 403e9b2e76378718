#include "policies/retrieval.hpp"

#include <algorithm>
#include <array>

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

void RetrievalState::select(Backend& backend, SequenceCache& cache, int layer, int head,
                            View<const float, 2> q, float scale, Pooling pooling, int64_t tokens) {
  const auto h = static_cast<size_t>(head);
  const size_t at = row(layer, head);
  const SelectionParams params{&cache.layer(layer).sketches(),    head,    q,
                               cache.layout().candidates(tokens), pooling, scale};
  const SelectionScratch scratch{part(scores_, h, scores_per_head_),
                                 part(pooled_, h, candidates_max_)};
  page_counts_[at] =
      static_cast<size_t>(select_pages(backend, params, scratch, part(pages_, at, selected_max_)));
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

void for_rows(const LayerStep& step, FunctionRef<bool(const StepRow&)> wanted,
              FunctionRef<void(const StepRow&)> body) {
  // Workers take equal shares of the wanted rows, however these are spread over the batch. A fixed
  // array holds them, since a step takes no memory; larger batches go in several rounds.
  std::array<StepRow, 256> rows;
  size_t count = 0;
  const auto flush = [&] {
    step.ctx.pool().parallel_for(static_cast<int64_t>(count), 1,
                                 [&](int64_t begin, int64_t end, int) {
                                   for (int64_t i = begin; i < end; ++i) {
                                     body(rows[static_cast<size_t>(i)]);
                                   }
                                 });
    count = 0;
  };
  for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
    const int heads = step.sequences[static_cast<size_t>(s)].cache.config().shape.heads;
    for (int head = 0; head < heads; ++head) {
      const StepRow row{s, head};
      if (!wanted(row)) continue;
      rows[count++] = row;
      if (count == rows.size()) flush();
    }
  }
  flush();
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
