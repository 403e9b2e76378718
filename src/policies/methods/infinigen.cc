// infinigen: while a layer works, the pages of the next one are chosen and fetched: a layer's input
// changes little from one layer to the next, so the input of this layer, put through the next
// layer's query projection, says what that layer will ask for before its own query exists
// (InfiniGen, OSDI 2024, arXiv 2406.19707, section 4).
//
// Products with all keys are estimated from few channels. Query and key are first turned, per KV
// head, so that few channels hold most of the query ("skewing": the right singular vectors of the
// queries of the prompt's last tokens; a turn leaves q.k as it is), and only the `ratio` largest
// are kept of every key, in fast memory. The turn follows RoPE, so that it cannot be folded into
// the projection: that is computed whole, and only the products are partial.
//
// The paper fetches single tokens, those within alpha of the best score and at most a fifth. Here
// pages move and the budget is fixed: the pages whose tokens take most of the estimated attention.
// The first layer has no layer before it and keeps everything, as in the paper.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "device/buffer.hpp"
#include "policies/policy.hpp"
#include "policies/principal.hpp"
#include "policies/retrieval.hpp"

namespace freekv {
namespace {

class InfiniGenState final : public RetrievalState {
 public:
  InfiniGenState(const CacheConfig& config, const CacheNeeds& needs, double ratio)
      : RetrievalState(config, needs), shape_(config.shape), group_(config.group()) {
    const bool retrieves = config.max_context > config.tokens.budget;
    const auto dim = static_cast<size_t>(shape_.head_dim);
    const auto heads = static_cast<size_t>(shape_.heads);
    rank_ = std::max<int64_t>(1, std::lround(ratio * shape_.head_dim));
    kept_.dtype = DType::kF32;
    kept_.page = shape_.page;
    kept_.heads = 1;
    kept_.head_dim = static_cast<int>((rank_ + 7) / 8 * 8);
    pages_.resize(retrieves ? static_cast<size_t>(config.max_pages()) : 0);
    std::iota(pages_.begin(), pages_.end(), 0);
    const size_t rows = retrieves ? static_cast<size_t>(config.layers) * heads : 0;
    products_.resize(rows * dim * dim);
    turns_.resize(rows * static_cast<size_t>(kept_.head_dim) * dim);
    keys_ = Buffer((rows + 1) / 2 * pages_.size() * kept_.slot_bytes());
    query_.resize(heads * static_cast<size_t>(group_) * dim);
    partial_query_.resize(heads * static_cast<size_t>(group_ * kept_.head_dim));
    channels_.resize(heads * dim);
  }

  /// The turns, and what they keep of the prompt's keys, stay.
  bool rewind() override { return rewind_known(); }

  /// Channels kept of a key, r: those of the turn and zeros behind them, as many as SIMD wants.
  int64_t kept() const { return kept_.head_dim; }
  /// Sum of q q^T over observed queries [d, d].
  View<double, 2> products(int layer, int head) {
    const int64_t d = shape_.head_dim;
    return View<double, 2>(products_.data() + row(layer, head) * static_cast<size_t>(d * d), d, d);
  }
  /// The directions kept become the principal ones of products(), which are written out [r, d].
  void find_turn(int layer, int head, View<float, 2> directions) {
    const int64_t d = shape_.head_dim;
    std::fill(directions.flat().begin(), directions.flat().end(), 0.0f);
    principal_directions(products(layer, head), View<float, 2>(directions.data(), rank_, d));
    float* out = turn(layer, head);
    for (int64_t e = 0; e < d; ++e) {
      for (int64_t i = 0; i < kept(); ++i) *out++ = directions[i][e];
    }
  }
  /// What is kept of the keys of pages, as keys of a pool, whose slots are the pages.
  AttentionRow keys(int layer, int head, const PageRange& pages) {
    const auto first = static_cast<size_t>(pages.first);
    return {pool(layer, head), 0,
            std::span(pages_).subspan(first, static_cast<size_t>(pages.size())), shape_.page};
  }
  /// Of a page's tokens [p, r].
  View<float, 2> keys(int layer, int head, int64_t page) {
    std::byte* keys = pool(layer, head).keys(static_cast<int32_t>(page), 0);
    return View<float, 2>(reinterpret_cast<float*>(keys), shape_.page, kept());
  }
  /// The query that is predicted for the next layer [1, H * d], and its part of one head [G, d].
  View<float, 2> query() {
    return View<float, 2>(query_.data(), 1, static_cast<int64_t>(query_.size()));
  }
  View<const float, 2> query_of(int head) const {
    const int64_t size = int64_t{group_} * shape_.head_dim;
    return View<const float, 2>(query_.data() + head * size, group_, shape_.head_dim);
  }
  /// Its kept channels [G, r].
  View<float, 2> partial_query(int head) {
    return View<float, 2>(partial_query_.data() + head * group_ * kept(), group_, kept());
  }

  /// Keeps of a key of the pool what the turn keeps.
  void keep_key(int layer, int head, int64_t token, const std::byte* key_bytes) {
    float* channels = channels_.data() + static_cast<int64_t>(head) * shape_.head_dim;
    load_row(shape_.dtype, key_bytes, {channels, static_cast<size_t>(shape_.head_dim)});
    const int64_t page = token / shape_.page;
    apply_turn(layer, head, channels, keys(layer, head, page)[token % shape_.page].data());
  }
  /// out [r] = turn . x [d]; the sums run side by side.
  void apply_turn(int layer, int head, const float* x, float* out) {
    const float* directions = turn(layer, head);
    std::fill_n(out, kept(), 0.0f);
    for (int e = 0; e < shape_.head_dim; ++e, directions += kept()) {
      for (int64_t i = 0; i < kept(); ++i) out[i] += directions[i] * x[e];
    }
  }

 private:
  size_t row(int layer, int head) const {
    return static_cast<size_t>(layer) * static_cast<size_t>(shape_.heads) +
           static_cast<size_t>(head);
  }
  // The directions kept [d, r].
  float* turn(int layer, int head) {
    return turns_.data() + row(layer, head) * static_cast<size_t>(kept() * shape_.head_dim);
  }
  // Keys alone are kept, and a slot of a pool has room for values too: two heads share it, one with
  // its keys where the values would be.
  KvPool pool(int layer, int head) {
    const size_t pair = row(layer, head) / 2, second = row(layer, head) % 2;
    const size_t offset =
        pair * pages_.size() * kept_.slot_bytes() + second * kept_.slot_bytes() / 2;
    return {keys_.data() + offset, kept_, KvLayout::kHND, static_cast<int32_t>(pages_.size())};
  }

  KvShape shape_;
  int group_;
  int64_t rank_ = 1;            // channels kept
  KvShape kept_;                // of what is kept of keys
  std::vector<int32_t> pages_;  // 0, 1, 2, ... of the longest context
  std::vector<double> products_;
  std::vector<float> turns_;
  Buffer keys_;
  std::vector<float> query_;
  std::vector<float> partial_query_;
  std::vector<float> channels_;  // [M, d], of a key at a time
};

InfiniGenState& state_of(const PolicySequence& sequence) {
  return static_cast<InfiniGenState&>(sequence.state);
}

class InfiniGenPolicy final : public Policy {
 public:
  explicit InfiniGenPolicy(const PolicyOptions& options) : ratio_(options.number("ratio", 0, 1)) {
    needs_.fast = CacheNeeds::Fast::kBudget;
    needs_.slow = true;
    needs_.dense_layers = 1;
    needs_.observed = options.integer("observe", 1, 1 << 20);
  }

  CacheNeeds plan(const CacheConfig& config) const override {
    check_budget(config.tokens, config.shape.page);
    return needs_;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const override {
    return std::make_unique<InfiniGenState>(config, needs_, ratio_);
  }

  void on_queries(const PromptQueries& queries) override {
    const PolicySequence& sequence = queries.sequence;
    if (!sequence.cache.layer(queries.layer).plan().budgeted) return;
    const int64_t heads = queries.q.shape(1), dim = queries.q.shape(2);
    const int64_t group = heads / queries.pool.shape.heads;
    queries.ctx.pool().parallel_for(
        queries.pool.shape.heads, 1, [&](int64_t begin, int64_t end, int) {
          for (int64_t head = begin; head < end; ++head) {
            const auto products =
                state_of(sequence).products(queries.layer, static_cast<int>(head));
            for (int64_t t = 0; t < queries.q.shape(0); ++t) {
              const float* q = queries.q[t].data() + head * group * dim;
              add_products(View<const float, 2>(q, group, dim), products);
            }
          }
        });
  }

  // The turn of every head, and what it keeps of the prompt's keys.
  void on_prefill(ExecutionContext& ctx, Backend&, const PolicySequence& sequence) override {
    SequenceCache& cache = sequence.cache;
    InfiniGenState& state = state_of(sequence);
    if (state.is_known_again()) return;
    const int heads = cache.config().shape.heads;
    ctx.pool().parallel_for(heads, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<float> memory(static_cast<size_t>(state.kept() * cache.config().shape.head_dim));
      const View<float, 2> turn(memory.data(), state.kept(), cache.config().shape.head_dim);
      for (auto head = static_cast<int>(begin); head < end; ++head) {
        for (int layer = 0; layer < cache.config().layers; ++layer) {
          if (!cache.layer(layer).plan().budgeted) continue;
          const auto products = state.products(layer, head);
          state.find_turn(layer, head, turn);
          std::fill(products.flat().begin(), products.flat().end(), 0.0);
          keep_prompt(cache, state, layer, head, turn);
        }
      }
    });
    state.note_known();
  }

  void pages_for(LayerStep& step) override {
    for (const PolicySequence& sequence : step.sequences) {
      if (sequence.cache.layer(step.layer).plan().budgeted) keep_token(sequence, step.layer);
    }
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      const PolicySequence& sequence = step.sequences[static_cast<size_t>(s)];
      if (!sequence.cache.retrieves(step.layer)) {
        set_dense_rows(step, s);
        continue;
      }
      sequence.cache.finish_recall(step.ctx, step.layer);
      for (int head = 0; head < sequence.cache.config().shape.heads; ++head) {
        set_sparse_row(step, {s, head}, state_of(sequence));
      }
    }
  }

  // What the next layer will want, from this layer's input.
  void after_attention(LayerStep& step) override {
    const int next = step.layer + 1;
    if (step.sequences.empty() || next == step.sequences[0].cache.config().layers) return;
    for (int64_t s = 0; s < static_cast<int64_t>(step.sequences.size()); ++s) {
      const PolicySequence& sequence = step.sequences[static_cast<size_t>(s)];
      if (!sequence.cache.retrieves(next)) continue;
      const View<const float, 1> input = step.input[s];
      const int64_t position = sequence.cache.tokens();
      sequence.model->project_query(step.ctx, step.backend, next,
                                    View<const float, 2>(input.data(), 1, input.shape(0)),
                                    std::span(&position, 1), state_of(sequence).query());
    }
    const auto retrieves = [&](const StepRow& row) {
      return step.sequences[static_cast<size_t>(row.sequence)].cache.retrieves(next);
    };
    for_rows(step, retrieves, [&](const StepRow& row) { select(step, row, next); });
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      if (retrieves({s, 0})) fetch(step.sequences[static_cast<size_t>(s)], next);
    }
  }

 private:
  static void keep_prompt(SequenceCache& cache, InfiniGenState& state, int layer, int head,
                          View<const float, 2> turn) {
    const PageLayout& layout = cache.layout();
    const KvShape& shape = cache.config().shape;
    const auto dim = static_cast<size_t>(shape.head_dim), bytes = shape.token_bytes();
    std::vector<std::byte> page_bytes(shape.head_page_bytes());
    std::vector<float> memory(static_cast<size_t>(shape.page) * dim);
    const View<float, 2> keys(memory.data(), shape.page, shape.head_dim);
    for (int32_t page = 0; page < layout.pages(cache.tokens()); ++page) {
      cache.layer(layer).slow()->read(page, head, page_bytes.data());
      const int64_t first = int64_t{page} * layout.page();
      // Rows behind the prompt's last token mean nothing until keep_key() writes them.
      const int64_t count = std::min<int64_t>(layout.page(), cache.tokens() - first);
      for (int64_t t = 0; t < count; ++t) {
        load_row(shape.dtype, page_bytes.data() + static_cast<size_t>(t) * bytes, keys[t].flat());
      }
      project(keys, turn, state.keys(layer, head, page));
    }
  }

  // The key of the token under way, from the window.
  static void keep_token(const PolicySequence& sequence, int layer) {
    SequenceCache& cache = sequence.cache;
    const KvPool& pool = cache.layer(layer).fast();
    const int64_t token = cache.tokens();
    const int32_t slot = cache.layout().common_slot(cache.layout().complete_pages(token));
    const size_t offset = static_cast<size_t>(token % pool.shape.page) * pool.token_stride();
    for (int head = 0; head < pool.shape.heads; ++head) {
      state_of(sequence).keep_key(layer, head, token, pool.keys(slot, head) + offset);
    }
  }

  static void select(const LayerStep& step, const StepRow& row, int layer) {
    const PolicySequence& sequence = step.sequences[static_cast<size_t>(row.sequence)];
    InfiniGenState& state = state_of(sequence);
    SequenceCache& cache = sequence.cache;
    const PageRange candidates = cache.layout().candidates(cache.tokens() + 1);
    const View<const float, 2> q = state.query_of(row.head);
    const View<float, 2> partial = state.partial_query(row.head);
    for (int64_t g = 0; g < q.shape(0); ++g) {
      state.apply_turn(layer, row.head, q[g].data(), partial[g].data());
    }
    const SelectionScratch scratch = state.scratch(row.head);
    const View<float, 2> scores(scratch.scores.data(), q.shape(0), candidates.size());
    step.backend.score_exact_pages(partial, state.keys(layer, row.head, candidates), step.scale,
                                   scores);
    const auto pooled = scratch.pooled.first(static_cast<size_t>(candidates.size()));
    step.backend.pool_scores(Pooling::kMeanSoftmax, 1, scores,
                             View<float, 1>(pooled.data(), candidates.size()));
    state.select_worthiest(step.backend, layer, row.head, {candidates.first, pooled});
    const auto misses = cache.layer(layer).make_resident(row.head, state.selected(layer, row.head),
                                                         state.move_room(row.head));
    state.set_moves(row.head, misses.size());
  }

  static void fetch(const PolicySequence& sequence, int layer) {
    InfiniGenState& state = state_of(sequence);
    SequenceCache& cache = sequence.cache;
    RetrievalStats& stats = cache.stats();
    for (int head = 0; head < cache.config().shape.heads; ++head) {
      const auto misses = state.moves(head);
      const size_t pages = state.selected(layer, head).size();
      ++stats.selections;
      stats.pages_selected += pages;
      stats.hits += pages - misses.size();
      stats.misses_after += misses.size();
      stats.bytes_recalled += misses.size() * cache.config().shape.head_page_bytes();
      cache.layer(layer).recall_later(head, misses);
    }
    cache.submit_recall(layer);
  }

  CacheNeeds needs_;
  double ratio_;
};

}  // namespace

PolicyDescriptor describe_infinigen() {
  return {"infinigen",
          "pages of the next layer, predicted from this layer's input (InfiniGen, OSDI 2024)",
          {{"ratio", "0.3", "part of the turned channels that estimate products"},
           {"observe", "256", "last prompt tokens whose queries choose these channels"}},
          [](const PolicyOptions& options) { return std::make_unique<InfiniGenPolicy>(options); }};
}

}  // namespace freekv
