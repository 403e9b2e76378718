#include "policies/keeping.hpp"

#include <algorithm>

namespace freekv {
namespace {

KeepingState& state_of(const PolicySequence& sequence) {
  return static_cast<KeepingState&>(sequence.state);
}

QueryBlock decode_block(const CacheConfig& config, const float* q) {
  return {q, 0, 1, config.group(), config.shape.head_dim};
}

// What is kept without the victim, and with the newcomer, which is after all others.
void replace(const PolicySequence& sequence, int layer_index, int head, int32_t newcomer,
             int32_t victim) {
  if (victim == newcomer) return;
  KeepingState& state = state_of(sequence);
  LayerCache& layer = sequence.cache.layer(layer_index);
  state.exchange(layer_index, head, victim, newcomer);
  const auto moves =
      layer.make_resident(head, state.selected(layer_index, head), state.move_room(head));
  layer.keep_now(head, moves);
}

}  // namespace

KeepingState::KeepingState(const CacheConfig& config, const CacheNeeds& needs)
    : RetrievalState(config, needs), heads_(static_cast<size_t>(config.shape.heads)) {
  const PageLayout layout(config, needs);
  const bool retrieves = config.max_context > config.tokens.budget;
  max_pages_ = retrieves ? static_cast<size_t>(config.max_pages()) : 0;
  attended_ = retrieves ? static_cast<size_t>(layout.attended_pages()) : 0;
  scratch_size_ = attention_mass_scratch(decode_block(config, nullptr), config.shape, attended_);
  const size_t rows = static_cast<size_t>(config.layers) * heads_;
  mass_.resize(rows * max_pages_);
  prompt_mass_.resize(mass_.size());
  undecided_.resize(rows);
  scratch_.resize(heads_ * scratch_size_);
  row_mass_.resize(heads_ * attended_);
}

void KeepingState::remember_prompt() {
  std::copy(mass_.begin(), mass_.end(), prompt_mass_.begin());
  remembers_ = true;
}

bool KeepingState::rewind() {
  if (!remembers_) return false;
  std::copy(prompt_mass_.begin(), prompt_mass_.end(), mass_.begin());
  forget();
  return true;
}

std::span<double> KeepingState::mass(int layer, int head) {
  const size_t row = static_cast<size_t>(layer) * heads_ + static_cast<size_t>(head);
  return std::span(mass_).subspan(row * max_pages_, max_pages_);
}

View<double, 2> KeepingState::layer_mass(int layer) {
  const size_t first = static_cast<size_t>(layer) * heads_ * max_pages_;
  return View<double, 2>(mass_.data() + first, heads_, max_pages_);
}

int32_t& KeepingState::undecided(int layer, int head) {
  return undecided_[static_cast<size_t>(layer) * heads_ + static_cast<size_t>(head)];
}

std::span<float> KeepingState::scratch_of_row(int head) {
  return std::span(scratch_).subspan(static_cast<size_t>(head) * scratch_size_, scratch_size_);
}

std::span<double> KeepingState::row_mass(int head) {
  return std::span(row_mass_).subspan(static_cast<size_t>(head) * attended_, attended_);
}

void add_prompt_mass(const PromptQueries& queries) {
  if (!queries.sequence.cache.layer(queries.layer).plan().budgeted) return;
  queries.backend.prefill_mass(queries.ctx,
                               {.q = queries.q,
                                .pool = queries.pool,
                                .slots = queries.slots,
                                .position = queries.position,
                                .scale = queries.scale,
                                .mass = state_of(queries.sequence).layer_mass(queries.layer),
                                .unit = queries.pool.shape.page});
}

void keep_of_prompt(ExecutionContext& ctx, Backend& backend, const PolicySequence& sequence) {
  SequenceCache& cache = sequence.cache;
  KeepingState& state = state_of(sequence);
  const PageLayout& layout = cache.layout();
  const bool over = layout.over_budget(cache.tokens());
  const PageRange candidates = layout.candidates(cache.tokens());
  const auto keep = [&](int layer, int head) {
    if (!cache.layer(layer).plan().budgeted) return;
    if (!over) {
      state.undecided(layer, head) = layout.sink_pages() + layout.selected();
      state.select_range(layer, head, layout.sink_pages());
      return;
    }
    state.undecided(layer, head) = candidates.last;
    const auto mass =
        state.mass(layer, head)
            .subspan(static_cast<size_t>(candidates.first), static_cast<size_t>(candidates.size()));
    const auto worth = state.scratch(head).pooled.first(mass.size());
    std::transform(mass.begin(), mass.end(), worth.begin(),
                   [](double x) { return static_cast<float>(x); });
    state.select_worthiest(backend, layer, head, {candidates.first, worth});
    LayerCache& kept = cache.layer(layer);
    kept.recall_now(head,
                    kept.make_resident(head, state.selected(layer, head), state.move_room(head)));
  };
  ctx.pool().parallel_for(cache.config().shape.heads, 1, [&](int64_t begin, int64_t end, int) {
    for (auto head = static_cast<int>(begin); head < end; ++head) {
      for (int layer = 0; layer < cache.config().layers; ++layer) keep(layer, head);
    }
  });
}

void set_kept_rows(LayerStep& step, FunctionRef<int32_t(const StepRow&, int32_t)> victim) {
  const auto sequence = [&](int s) -> const PolicySequence& {
    return step.sequences[static_cast<size_t>(s)];
  };
  for_rows(
      step, [&](const StepRow& row) { return sequence(row.sequence).cache.retrieves(step.layer); },
      [&](const StepRow& row) {
        const PolicySequence& each = sequence(row.sequence);
        KeepingState& state = state_of(each);
        const PageRange candidates = each.cache.layout().candidates(each.cache.tokens() + 1);
        int32_t& undecided = state.undecided(step.layer, row.head);
        while (undecided < candidates.last) {
          const int32_t newcomer = undecided++;
          replace(each, step.layer, row.head, newcomer, victim(row, newcomer));
        }
        set_sparse_row(step, row, state);
      });
  for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
    SequenceCache& cache = sequence(s).cache;
    if (!cache.retrieves(step.layer)) {
      set_dense_rows(step, s);
      continue;
    }
    for (int head = 0; head < cache.config().shape.heads; ++head) {
      // What is kept is in fast memory: all hits.
      const size_t pages = state_of(sequence(s)).selected(step.layer, head).size();
      ++cache.stats().selections;
      cache.stats().pages_selected += pages;
      cache.stats().hits += pages;
    }
  }
}

void for_page_masses(const LayerStep& step, const StepRow& row,
                     FunctionRef<void(int32_t, double)> body) {
  const PolicySequence& sequence = step.sequences[static_cast<size_t>(row.sequence)];
  KeepingState& state = state_of(sequence);
  const AttentionRow& attended = step.rows[row_index(step, row)];
  const auto mass = state.row_mass(row.head).first(attended.slots.size());
  std::fill(mass.begin(), mass.end(), 0.0);
  add_page_mass(step.backend, attended,
                decode_block(sequence.cache.config(), row_query(step, row).data()), step.scale,
                state.scratch_of_row(row.head), mass);
  size_t at = 0;
  if (!sequence.cache.retrieves(step.layer)) {
    for (const double each : mass) body(static_cast<int32_t>(at++), each);
    return;
  }
  const PageLayout& layout = sequence.cache.layout();
  for (int32_t page = 0; page < layout.sink_pages(); ++page) body(page, mass[at++]);
  for (const int32_t page : state.selected(step.layer, row.head)) body(page, mass[at++]);
  const PageRange window = layout.window(sequence.cache.tokens() + 1);
  for (int32_t page = window.first; page < window.last; ++page) body(page, mass[at++]);
}

}  // namespace freekv
