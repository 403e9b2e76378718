// shadowkv: the prompt's keys stay in fast memory as few numbers each, its values in the slow tier.
// Pages are selected with the step's own query on landmarks, the means of 8 keys; their values are
// fetched before attention and their keys rebuilt (ShadowKV, ICML 2025, arXiv 2410.21465, section
// 4).
//
// Keys are close to few directions before RoPE, not after it, so they are turned back, cut to the
// `rank` principal directions of all KV heads together (the right singular vectors of the prompt's
// keys), and turned again when a page is rebuilt. At full rank this is exact but for rounding.
// Chunks that their landmark describes worst are outliers: the pages that hold them are always
// attended to and brought whole, at most half of those selected, since the budget is fixed here.
// Pages generated later were no part of the decomposition and are brought whole, too. The slow tier
// holds the keys as well, since it is the same for all policies; only what is said here is read.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/check.hpp"
#include "device/buffer.hpp"
#include "kvcache/sketch.hpp"
#include "policies/blocking_recall.hpp"
#include "policies/policy.hpp"
#include "policies/principal.hpp"

namespace freekv {
namespace {

constexpr int kChunk = 8;  // tokens of a landmark

class ShadowKvState final : public BlockingState {
 public:
  ShadowKvState(const CacheConfig& config, const CacheNeeds& needs, int64_t rank)
      : BlockingState(config, needs), shape_(config.shape) {
    const bool retrieves = config.max_context > config.tokens.budget;
    const int64_t width = int64_t{shape_.heads} * shape_.head_dim;
    rank_ = std::min(rank, width);
    tokens_ = retrieves ? config.max_context : 0;
    const auto layers = static_cast<size_t>(retrieves ? config.layers : 0);
    codes_ = Buffer(layers * static_cast<size_t>(tokens_ * rank_) * sizeof(float));
    bases_.resize(layers * static_cast<size_t>(rank_ * width));
    outliers_.resize(layers * static_cast<size_t>(shape_.heads));
  }

  /// What the prompt's keys came to stays.
  bool rewind() override { return rewind_known(); }

  int64_t rank() const { return rank_; }
  /// The prompt's keys [tokens, r] of a layer, along its directions.
  View<float, 2> codes(int layer) {
    return View<float, 2>(codes_.as<float>().data() + layer * tokens_ * rank_, tokens_, rank_);
  }
  /// The directions [r, M * d].
  View<float, 2> basis(int layer) {
    const int64_t width = int64_t{shape_.heads} * shape_.head_dim;
    return View<float, 2>(bases_.data() + layer * rank_ * width, rank_, width);
  }
  /// Pages with outlier chunks, in no order.
  std::vector<int32_t>& outliers(int layer, int head) {
    return outliers_[static_cast<size_t>(layer * shape_.heads + head)];
  }
  bool rebuilt(int layer, int head, int32_t page) {
    const auto& whole = outliers(layer, head);
    return page < prompt_pages && std::find(whole.begin(), whole.end(), page) == whole.end();
  }

  int64_t prompt_tokens = 0;
  int32_t prompt_pages = 0;  // complete ones of the prompt

 private:
  KvShape shape_;
  int64_t rank_ = 0;
  int64_t tokens_ = 0;
  Buffer codes_;
  std::vector<float> bases_;
  std::vector<std::vector<int32_t>> outliers_;  // [layers][M]
};

ShadowKvState& state_of(const PolicySequence& sequence) {
  return static_cast<ShadowKvState&>(sequence.state);
}

// The keys of a page of all heads, turned back to before RoPE: x [p, M * d].
void read_page(const PolicySequence& sequence, int layer, int32_t page,
               std::span<std::byte> page_bytes, View<float, 2> x) {
  const KvShape& shape = sequence.cache.config().shape;
  const auto dim = static_cast<size_t>(shape.head_dim);
  for (int head = 0; head < shape.heads; ++head) {
    sequence.cache.layer(layer).slow()->read(page, head, page_bytes.data());
    for (int t = 0; t < shape.page; ++t) {
      const std::byte* key = page_bytes.data() + static_cast<size_t>(t) * shape.token_bytes();
      load_row(shape.dtype, key, x[t].flat().subspan(static_cast<size_t>(head) * dim, dim));
    }
  }
  for (int t = 0; t < shape.page; ++t) {
    sequence.model->rotate(int64_t{page} * shape.page + t, state_of(sequence).prompt_tokens, true,
                           View<float, 2>(x[t].data(), shape.heads, shape.head_dim));
  }
}

// Calls visit(first token, keys [n, M * d] as read_page() has them) for all of a layer's pages.
template <typename Visit>
void for_keys(const PolicySequence& sequence, int layer, int32_t pages, Visit&& visit) {
  constexpr int32_t kPages = 8;  // at a time
  const KvShape& shape = sequence.cache.config().shape;
  const int64_t page_tokens = shape.page, width = int64_t{shape.heads} * shape.head_dim;
  std::vector<std::byte> page_bytes(shape.head_page_bytes());
  std::vector<float> x(static_cast<size_t>(kPages * page_tokens * width));
  for (int32_t first = 0; first < pages; first += kPages) {
    const int32_t count = std::min(kPages, pages - first);
    for (int32_t i = 0; i < count; ++i) {
      read_page(sequence, layer, first + i, page_bytes,
                View<float, 2>(x.data() + i * page_tokens * width, page_tokens, width));
    }
    visit(first * page_tokens, View<const float, 2>(x.data(), count * page_tokens, width));
  }
}

// Directions and codes of a layer.
void decompose(const PolicySequence& sequence, int layer, int32_t pages) {
  const KvShape& shape = sequence.cache.config().shape;
  const int64_t width = int64_t{shape.heads} * shape.head_dim;
  ShadowKvState& state = state_of(sequence);
  std::vector<double> memory(static_cast<size_t>(width * width));
  const View<double, 2> products(memory.data(), width, width);
  for_keys(sequence, layer, pages,
           [&](int64_t, View<const float, 2> keys) { add_products(keys, products); });
  const View<float, 2> basis = state.basis(layer), codes = state.codes(layer);
  principal_directions(products, basis);
  for_keys(sequence, layer, pages, [&](int64_t first, View<const float, 2> keys) {
    project(keys, basis, View<float, 2>(codes[first].data(), keys.shape(0), state.rank()));
  });
}

// The least cosine of a key of the chunk [n, d] with the chunk's mean.
double least_cosine(std::span<const float> keys, int dim) {
  const auto d = static_cast<size_t>(dim);
  std::vector<double> mean(d);
  for (size_t t = 0; t < keys.size(); t += d) {
    for (size_t e = 0; e < d; ++e) mean[e] += static_cast<double>(keys[t + e]);
  }
  double mean_square = 0, least = 1;
  for (const double each : mean) mean_square += each * each;
  for (size_t t = 0; t < keys.size(); t += d) {
    double dot = 0, square = 0;
    for (size_t e = 0; e < d; ++e) {
      const double key = keys[t + e];
      dot += mean[e] * key;
      square += key * key;
    }
    least = std::min(least, dot / std::sqrt(std::max(mean_square * square, 1e-300)));
  }
  return least;
}

// The pages of the `count` candidate chunks that are least like their landmarks, at most `most`.
std::vector<int32_t> find_outliers(const PolicySequence& sequence, int layer, int head,
                                   int64_t count, size_t most) {
  const KvShape& shape = sequence.cache.config().shape;
  const PageRange candidates = sequence.cache.layout().candidates(sequence.cache.tokens());
  std::vector<std::byte> page_bytes(shape.head_page_bytes());
  std::vector<float> keys(static_cast<size_t>(shape.page * shape.head_dim));
  std::vector<std::pair<double, int32_t>> chunks;  // cosine, page
  for (int32_t page = candidates.first; page < candidates.last; ++page) {
    sequence.cache.layer(layer).slow()->read(page, head, page_bytes.data());
    load_row(shape.dtype, page_bytes.data(), keys);
    for (int first = 0; first < shape.page; first += kChunk) {
      const int n = std::min(kChunk, shape.page - first);
      chunks.emplace_back(least_cosine(std::span<const float>(keys).subspan(
                                           static_cast<size_t>(first * shape.head_dim),
                                           static_cast<size_t>(n * shape.head_dim)),
                                       shape.head_dim),
                          page);
    }
  }
  std::sort(chunks.begin(), chunks.end());
  if (static_cast<int64_t>(chunks.size()) > count) chunks.resize(static_cast<size_t>(count));
  std::vector<int32_t> pages;
  for (const auto& [cosine, page] : chunks) {
    if (pages.size() == most) break;
    if (std::find(pages.begin(), pages.end(), page) == pages.end()) pages.push_back(page);
  }
  return pages;
}

class ShadowKvPolicy final : public Policy {
 public:
  explicit ShadowKvPolicy(const PolicyOptions& options)
      : rank_(options.integer("rank", 1, 1 << 16)),
        outliers_(options.integer("outliers", 0, 1 << 20)),
        score_pooling_(parse_pooling("max_softmax")) {
    needs_.fast = CacheNeeds::Fast::kBudget;
    needs_.slow = true;
    needs_.sketch = find_sketch("landmark").name();
  }

  CacheNeeds plan(const CacheConfig& config) const override {
    check_budget(config.tokens, config.shape.page);
    return needs_;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const override {
    return std::make_unique<ShadowKvState>(config, needs_, rank_);
  }

  void on_prefill(ExecutionContext& ctx, Backend&, const PolicySequence& sequence) override {
    SequenceCache& cache = sequence.cache;
    ShadowKvState& state = state_of(sequence);
    if (state.is_known_again()) return;
    state.prompt_tokens = cache.tokens();
    state.prompt_pages = cache.layout().complete_pages(cache.tokens());
    const int layers = cache.config().layers;
    ctx.pool().parallel_for(layers, 1, [&](int64_t begin, int64_t end, int) {
      for (auto layer = static_cast<int>(begin); layer < end; ++layer) {
        if (!cache.layer(layer).plan().budgeted) continue;
        decompose(sequence, layer, state.prompt_pages);
        for (int head = 0; head < cache.config().shape.heads; ++head) {
          state.outliers(layer, head) =
              find_outliers(sequence, layer, head, outliers_, state.wanted() / 2);
        }
      }
    });
    state.note_known();
  }

  void pages_for(LayerStep& step) override {
    const auto retrieves = [&](const StepRow& row) {
      return step.sequences[static_cast<size_t>(row.sequence)].cache.retrieves(step.layer);
    };
    for_rows(step, retrieves, [&](const StepRow& row) {
      select(step, row);
      bring(step, row);
    });
    for (int s = 0; s < static_cast<int>(step.sequences.size()); ++s) {
      if (!retrieves({s, 0})) {
        set_dense_rows(step, s);
        continue;
      }
      const PolicySequence& sequence = step.sequences[static_cast<size_t>(s)];
      ShadowKvState& state = state_of(sequence);
      count_recalled(step, s, state);
      // Of a page that was rebuilt only the values came.
      for (int head = 0; head < sequence.cache.config().shape.heads; ++head) {
        for (const PageMove& move : state.moves(head)) {
          if (!state.rebuilt(step.layer, head, move.page)) continue;
          sequence.cache.stats().bytes_recalled -=
              sequence.cache.config().shape.head_page_bytes() / 2;
        }
      }
    }
  }

 private:
  void select(const LayerStep& step, const StepRow& row) const {
    const PolicySequence& sequence = step.sequences[static_cast<size_t>(row.sequence)];
    ShadowKvState& state = state_of(sequence);
    const PageRange candidates = sequence.cache.layout().candidates(sequence.cache.tokens() + 1);
    const auto n = static_cast<size_t>(candidates.size());
    const View<const float, 2> q = row_query(step, row);
    const SelectionScratch scratch = state.scratch(row.head);
    const View<float, 2> scores(scratch.scores.data(), q.shape(0), n);
    sequence.cache.layer(step.layer)
        .sketches()
        .score(step.backend, row.head, {q, step.scale}, candidates.first, scores);
    const auto pooled = scratch.pooled.first(n);
    step.backend.pool_scores(score_pooling_, step.scale, scores, View<float, 1>(pooled.data(), n));
    for (const int32_t page : state.outliers(step.layer, row.head)) {
      pooled[static_cast<size_t>(page - candidates.first)] = std::numeric_limits<float>::infinity();
    }
    state.select_worthiest(step.backend, step.layer, row.head, {candidates.first, pooled});
  }

  // Values and rebuilt keys of the prompt's pages, all of the others.
  static void bring(LayerStep& step, const StepRow& row) {
    const PolicySequence& sequence = step.sequences[static_cast<size_t>(row.sequence)];
    ShadowKvState& state = state_of(sequence);
    LayerCache& layer = sequence.cache.layer(step.layer);
    recall_row(step, row, state, {}, [&](int head, std::span<const PageMove> misses) {
      layer.recall_now(head, misses,
                       [&](int32_t page) { return state.rebuilt(step.layer, head, page); });
      for (const PageMove& move : misses) {
        if (state.rebuilt(step.layer, head, move.page)) rebuild(sequence, step.layer, head, move);
      }
    });
  }

  static void rebuild(const PolicySequence& sequence, int layer, int head, const PageMove& move) {
    ShadowKvState& state = state_of(sequence);
    const KvPool& pool = sequence.cache.layer(layer).fast();
    const int dim = pool.shape.head_dim;
    std::array<float, 1024> key;
    check_internal(dim <= static_cast<int>(key.size()), "head dimension is {}, must be at most {}",
                   dim, key.size());
    const View<float, 2> basis = state.basis(layer);
    std::byte* out = pool.keys(move.slot, head);
    for (int t = 0; t < pool.shape.page; ++t, out += pool.token_stride()) {
      const int64_t token = int64_t{move.page} * pool.shape.page + t;
      const View<float, 1> code = state.codes(layer)[token];
      std::fill_n(key.begin(), dim, 0.0f);
      for (int64_t i = 0; i < state.rank(); ++i) {
        const float* direction = basis[i].data() + static_cast<int64_t>(head) * dim;
        for (int e = 0; e < dim; ++e) key[static_cast<size_t>(e)] += code[i] * direction[e];
      }
      sequence.model->rotate(token, state.prompt_tokens, false, View<float, 2>(key.data(), 1, dim));
      for (int e = 0; e < dim; ++e) {
        store_element(pool.shape.dtype, out, e, key[static_cast<size_t>(e)]);
      }
    }
  }

  CacheNeeds needs_;
  int64_t rank_;
  int64_t outliers_;
  Pooling score_pooling_;
};

}  // namespace

PolicyDescriptor describe_shadowkv() {
  return {
      "shadowkv",
      "low-rank keys of the prompt, values from the slow tier (ShadowKV, ICML 2025)",
      {{"rank", "160", "numbers kept of the keys of all KV heads of a token, at most their own"},
       {"outliers", "48", "chunks of 8 tokens kept exact and always attended to, by page"}},
      [](const PolicyOptions& options) { return std::make_unique<ShadowKvPolicy>(options); }};
}

}  // namespace freekv
