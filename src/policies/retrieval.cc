#include "policies/retrieval.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
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
  const bool has_values = !needs.sketch.empty() && find_sketch(needs.sketch).has_values();
  if (has_values) highest_.resize(heads * static_cast<size_t>(config.group()));
  const bool lists = !needs.sketch.empty() && find_sketch(needs.sketch).listed_share() < 1;
  listed_max_ = lists ? candidates_max_ : 0;
  listed_.resize(heads * listed_max_);
  listed_counts_.resize(heads);
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
  return {part(scores_, h, scores_per_head_), part(pooled_, h, candidates_max_),
          part(listed_, h, listed_max_)};
}

std::span<int32_t> RetrievalState::listed(int head) {
  const auto h = static_cast<size_t>(head);
  return part(listed_, h, listed_max_).first(listed_counts_[h]);
}

std::span<const float> RetrievalState::page_mass(int head) const {
  return std::span(pooled_).subspan(static_cast<size_t>(head) * candidates_max_, candidates_max_);
}

View<float, 2> RetrievalState::head_masses(int head, int64_t group, int64_t pages) {
  return View<float, 2>(part(scores_, static_cast<size_t>(head), scores_per_head_).data(), group,
                        pages);
}

float RetrievalState::highest(int head, int64_t g) const {
  const size_t group = highest_.size() / static_cast<size_t>(heads_);
  return highest_[static_cast<size_t>(head) * group + static_cast<size_t>(g)];
}

void RetrievalState::note_highest(int head, View<const float, 2> scores) {
  const auto highest =
      part(highest_, static_cast<size_t>(head), static_cast<size_t>(scores.shape(0)));
  for (int64_t g = 0; g < scores.shape(0); ++g) {
    const auto row = scores[g].flat();
    highest[static_cast<size_t>(g)] = *std::max_element(row.begin(), row.end());
  }
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

bool RetrievalState::rewind_known() {
  if (known_) forget();
  rewound_ = known_;
  return known_;
}

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

// One row's selection, and the work of scoring for it as items that may be cut anywhere.
class RowSelection {
 public:
  RowSelection(const LayerStep& step, SelectionRule rule, const StepRow& row)
      : step_(step),
        rule_(rule),
        row_(row),
        cache_(step.sequences[static_cast<size_t>(row.sequence)].cache),
        state_(state_of(step, row)),
        tokens_(cache_.tokens() + 1 + rule.ahead) {
    const PageLayout& layout = cache_.layout();
    params_.head = row.head;
    params_.query = {row_query(step, row), step.scale};
    params_.candidates = layout.candidates(tokens_);
    params_.columns = params_.candidates;
    params_.pooling = rule.pooling;
    if (rule.by != SelectBy::kSketch) params_.columns = {0, layout.pages(tokens_)};
    if (rule.by != SelectBy::kExactMass) {
      params_.sketches = &cache_.layer(step.layer).sketches();
    }
  }

  // In this order: first_stage() and list() where the sketch has two, last_stage(), select().
  bool lists() const { return lists_candidates(params_); }
  int64_t first_stage_items() const {
    return scores() && has_first_stage(params_, state_.wanted()) ? params_.candidates.size() : 0;
  }
  void first_stage(int32_t begin, int32_t end) const {
    score_candidates(step_.backend, params_, scratch(), true, begin, end);
  }

  void list() const {
    if (!scores()) return;
    const int32_t count = list_candidates(step_.backend, params_, scratch(), state_.wanted());
    state_.set_listed(row_.head, static_cast<size_t>(count));
  }

  // Candidates, then the pages whose mass is taken from their keys.
  int64_t last_stage_items() const { return scores() ? sketched() + exact() : 0; }
  void last_stage(int32_t begin, int32_t end) const {
    const int32_t from_sketch = sketched();
    if (begin < std::min(end, from_sketch)) score_sketched(begin, std::min(end, from_sketch));
    for (int32_t i = std::max(begin, from_sketch); i < end;) i = score_exact(i, end);
  }

  void select() const {
    if (params_.sketches && params_.sketches->sketch().has_values() &&
        rule_.by == SelectBy::kMass) {
      state_.note_highest(row_.head, state_.head_masses(row_.head, params_.query.q.shape(0),
                                                        params_.columns.size()));
    }
    state_.select_scored(step_.backend, step_.layer, params_);
    // Where all are selected nothing was pooled.
    if (rule_.by != SelectBy::kSketch && !has_choice(params_, state_.wanted())) {
      pool_columns(step_.backend, params_, scratch());
    }
  }

 private:
  SelectionScratch scratch() const { return state_.scratch(row_.head); }
  bool scores() const {
    return rule_.by != SelectBy::kSketch || has_choice(params_, state_.wanted());
  }
  int32_t sketched() const {
    if (!params_.sketches) return 0;
    return lists() ? static_cast<int32_t>(state_.listed(row_.head).size())
                   : params_.candidates.size();
  }
  int32_t exact() const {
    return params_.columns.size() - (params_.sketches ? params_.candidates.size() : 0);
  }

  void score_sketched(int32_t begin, int32_t end) const {
    if (lists()) {
      score_listed(step_.backend, params_, scratch(),
                   state_.listed(row_.head).subspan(static_cast<size_t>(begin),
                                                    static_cast<size_t>(end - begin)));
    } else {
      score_candidates(step_.backend, params_, scratch(), false, begin, end);
    }
  }

  // Scores as many of the pages from item `begin` on as a fixed array holds and lie together;
  // returns the next item.
  int32_t score_exact(int32_t begin, int32_t end) const {
    std::array<int32_t, 64> slots;
    std::array<float, 4096> block;
    const LayerCache& layer = cache_.layer(step_.layer);
    const PageRange window = cache_.layout().window(tokens_);
    const int32_t page = exact_page(begin);
    const int64_t group = params_.query.q.shape(0);
    const int64_t room = std::min<int64_t>(std::size(slots), std::size(block) / group);
    int32_t count = 0;
    while (begin + count < end && count < room && exact_page(begin + count) == page + count) {
      slots[static_cast<size_t>(count)] = layer.resident_slot(row_.head, page + count, window);
      ++count;
    }
    const bool current = page + count == cache_.layout().pages(tokens_);
    const int page_tokens = cache_.config().shape.page;
    const AttentionRow pages{
        layer.fast(), row_.head, std::span(slots).first(static_cast<size_t>(count)),
        current ? static_cast<int>((tokens_ - 1) % page_tokens) + 1 : page_tokens};
    const View<float, 2> scores(block.data(), group, count);
    step_.backend.score_exact_pages(params_.query.q, pages, params_.query.scale, scores);
    write_scores(params_, scratch(), page, scores);
    return begin + count;
  }
  // The page of an item of the last stage past the sketched ones.
  int32_t exact_page(int32_t item) const {
    const int32_t i = item - sketched();
    const bool after = params_.sketches && i >= params_.candidates.first;
    return after ? i + params_.candidates.size() : i;
  }

  const LayerStep& step_;
  SelectionRule rule_;
  StepRow row_;
  SequenceCache& cache_;
  RetrievalState& state_;
  int64_t tokens_;
  SelectionParams params_;
};

// Cuts the items of all rows, laid end to end, into one part per worker.
template <typename Items, typename Work>
void share_items(const LayerStep& step, SelectionRule rule, std::span<const StepRow> rows,
                 Items&& items, Work&& work) {
  // Whole blocks of sketches, and enough of them to be worth another thread.
  constexpr int64_t kGrain = 8 * BoxSketchView::kBlockPages;
  int64_t total = 0;
  for (const StepRow& row : rows) total += items(RowSelection(step, rule, row));
  step.ctx.pool().parallel_for(total, kGrain, [&](int64_t begin, int64_t end, int) {
    int64_t first = 0;
    for (const StepRow& row : rows) {
      const RowSelection selection(step, rule, row);
      const int64_t last = first + items(selection);
      const int64_t from = std::max(begin, first), to = std::min(end, last);
      if (from < to) {
        work(selection, static_cast<int32_t>(from - first), static_cast<int32_t>(to - first));
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
    // One sketch for all rows.
    if (RowSelection(step, rule, rows[0]).lists()) {
      share_items(
          step, rule, rows, [](const RowSelection& s) { return s.first_stage_items(); },
          [](const RowSelection& s, int32_t from, int32_t to) { s.first_stage(from, to); });
      on_workers(step, rows, [&](const StepRow& row) { RowSelection(step, rule, row).list(); });
    }
    share_items(
        step, rule, rows, [](const RowSelection& s) { return s.last_stage_items(); },
        [](const RowSelection& s, int32_t from, int32_t to) { s.last_stage(from, to); });
    on_workers(step, rows, [&](const StepRow& row) {
      RowSelection(step, rule, row).select();
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

double lost_mass(const LayerStep& step, const StepRow& row, std::span<const int32_t> pages) {
  const SequenceCache& cache = step.sequences[static_cast<size_t>(row.sequence)].cache;
  const auto mass = state_of(step, row).page_mass(row.head);
  const PageRange window = cache.layout().window(cache.tokens() + 1);
  double found = 0;
  const auto find = [&](int32_t page) { found += mass[static_cast<size_t>(page)]; };
  for (int32_t page = 0; page < cache.layout().sink_pages(); ++page) find(page);
  for (const int32_t page : pages) find(page);
  for (int32_t page = window.first; page < window.last; ++page) find(page);
  return std::max(0.0, 1 - found);
}

void add_unattended(const LayerStep& step, const StepRow& row, std::span<const int32_t> pages) {
  SequenceCache& cache = step.sequences[static_cast<size_t>(row.sequence)].cache;
  const PageLayout& layout = cache.layout();
  const int64_t tokens = cache.tokens() + 1;
  const PageRange candidates = layout.candidates(tokens);
  if (pages.size() == static_cast<size_t>(candidates.size())) return;
  RetrievalState& state = state_of(step, row);
  const auto at = static_cast<int64_t>(row_index(step, row));
  const View<float, 2> attended = step.attended[at];
  const View<float, 2> masses =
      state.head_masses(row.head, attended.shape(0), layout.pages(tokens));
  // Each head's masses become the shares of attention that the pages get which had none.
  for (int64_t g = 0; g < attended.shape(0); ++g) {
    const auto mass = masses[g].flat();
    std::fill(mass.begin(), mass.begin() + candidates.first, 0.0f);
    for (const int32_t page : pages) mass[static_cast<size_t>(page)] = 0;
    std::fill(mass.begin() + candidates.last, mass.end(), 0.0f);
    // In units of exp(highest), as the masses are. What was attended to may be beyond all numbers
    // there, and the rest is nothing beside it then.
    const double rest = std::accumulate(mass.begin(), mass.end(), 0.0);
    const double all =
        rest + std::exp(static_cast<double>(step.log_mass[at][g]) - state.highest(row.head, g));
    for (float& share : mass) share = static_cast<float>(share / all);
    for (float& x : attended[g].flat()) x *= static_cast<float>(1 - rest / all);
  }
  cache.layer(step.layer).sketches().add_values(step.backend, row.head, masses, 0, attended);
}

std::optional<SketchKind> device_sketch(std::string_view name) {
  if (name == "minmax") return SketchKind::kMinMax;
  if (name == "key2") return SketchKind::kKey2;
  return std::nullopt;
}

RecallMechanism parse_recall(const std::string& name) {
  if (name == "gather") return RecallMechanism::kGather;
  if (name == "streamed") return RecallMechanism::kStreamed;
  fail(ErrorCode::kInvalidArgument, "recall is '{}', must be one of gather, streamed", name);
}

uint64_t time_of(FunctionRef<void()> body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  const auto taken = std::chrono::steady_clock::now() - begin;
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(taken).count());
}

uint64_t recall_blocking(const LayerStep& step, const StepRow& row,
                         std::span<const PageMove> moves) {
  if (moves.empty()) return 0;
  SequenceCache& cache = step.sequences[static_cast<size_t>(row.sequence)].cache;
  return time_of([&] { cache.layer(step.layer).recall_now(row.head, moves); });
}

void set_dense_rows(LayerStep& step, int sequence) {
  const SequenceCache& cache = step.sequences[static_cast<size_t>(sequence)].cache;
  for (int head = 0; head < cache.config().shape.heads; ++head) {
    step.rows[row_index(step, {sequence, head})] = cache.dense_row(step.layer, head);
  }
}

void set_sparse_row(LayerStep& step, const StepRow& row, RetrievalState& state) {
  set_sparse_row(step, row, state, state.selected(step.layer, row.head));
}

void set_sparse_row(LayerStep& step, const StepRow& row, RetrievalState& state,
                    std::span<const int32_t> pages) {
  const SequenceCache& cache = step.sequences[static_cast<size_t>(row.sequence)].cache;
  step.rows[row_index(step, row)] =
      cache.sparse_row(step.layer, row.head, pages, state.row_slots(row.head));
}

}  // namespace freekv
