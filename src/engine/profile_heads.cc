#include "engine/profile_heads.hpp"

#include <algorithm>
#include <limits>
#include <random>

#include "core/check.hpp"
#include "engine/prefill.hpp"
#include "policies/attention_mass.hpp"
#include "policies/retrieval.hpp"

namespace freekv {
namespace {

/// Dense attention that is watched.
class Watcher final : public Policy {
 public:
  Watcher(const ModelConfig& config, int64_t period)
      : heads_(config.query_heads),
        period_(period),
        echo_(static_cast<size_t>(config.layers * config.query_heads)),
        induction_(echo_.size()) {}

  CacheNeeds plan(const CacheConfig&) const override {
    CacheNeeds needs;
    needs.observed = std::numeric_limits<int64_t>::max();
    return needs;
  }
  std::unique_ptr<PolicyState> make_state(const CacheConfig&) const override {
    return std::make_unique<PolicyState>();
  }
  void pages_for(LayerStep& step) override {
    for (size_t s = 0; s < step.sequences.size(); ++s) set_dense_rows(step, static_cast<int>(s));
  }

  void on_queries(const PromptQueries& queries) override {
    const KvShape& shape = queries.pool.shape;
    const int64_t group = heads_ / shape.heads;
    queries.ctx.pool().parallel_for(heads_, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<float> scratch;
      std::vector<double> mass;
      for (int64_t head = begin; head < end; ++head) {
        const auto at = static_cast<size_t>(queries.layer * heads_ + head);
        for (int64_t t = 0; t < queries.q.shape(0); ++t) {
          const int64_t position = queries.position + t;
          if (position < period_) continue;
          const auto pages = static_cast<size_t>(position / shape.page + 1);
          const AttentionRow row{queries.pool, static_cast<int>(head / group),
                                 queries.slots.first(pages),
                                 static_cast<int>(position % shape.page) + 1};
          const QueryBlock one{queries.q[t][head].data(), 0, 1, 1, shape.head_dim};
          scratch.resize(attention_mass_scratch(one, shape, pages));
          mass.assign(pages * static_cast<size_t>(shape.page), 0);
          add_token_mass(row, one, queries.scale, scratch, mass);
          for (int64_t copy = position - period_; copy >= 0; copy -= period_) {
            echo_[at] += mass[static_cast<size_t>(copy)];
            induction_[at] += mass[static_cast<size_t>(copy + 1)];
          }
        }
      }
    });
  }

  /// Means over `queries` queries.
  std::vector<float> echo(int64_t queries) const { return means(echo_, queries); }
  std::vector<float> induction(int64_t queries) const { return means(induction_, queries); }

 private:
  static std::vector<float> means(const std::vector<double>& sums, int64_t queries) {
    std::vector<float> result;
    for (const double sum : sums) {
      // Rounding may take a sum of weights past 1.
      result.push_back(static_cast<float>(std::min(1.0, sum / static_cast<double>(queries))));
    }
    return result;
  }

  int64_t heads_;
  int64_t period_;
  std::vector<double> echo_, induction_;  // [layers][H], sums
};

}  // namespace

HeadProfile profile_heads(const Model& model, const ProfileHeadsOptions& options,
                          const std::function<bool(int64_t done)>& proceed) {
  constexpr int64_t kChunk = 256;
  constexpr int kPage = 32;
  const ModelConfig& config = model.config();
  check_argument(options.tokens >= 2 && options.repeats >= 2,
                 "{} tokens {} times, must be at least 2 tokens 2 times", options.tokens,
                 options.repeats);
  check_argument(options.tokens <= config.context_length / options.repeats,
                 "{} tokens {} times are more than the model's context of {}", options.tokens,
                 options.repeats, config.context_length);
  const int64_t total = options.tokens * options.repeats;

  std::mt19937_64 random(options.seed);
  std::vector<int32_t> text(static_cast<size_t>(total));
  for (size_t i = 0; i < text.size(); ++i) {
    const auto period = static_cast<size_t>(options.tokens);
    text[i] = i < period ? static_cast<int32_t>(random() % static_cast<uint64_t>(config.vocab))
                         : text[i - period];
  }

  ExecutionContext ctx(options.threads);
  const auto backend = make_cpu_backend();
  const int64_t q_width = int64_t{config.query_heads} * config.head_dim;
  backend->reserve(ctx, {.max_rows = 1,
                         .max_chunk = kChunk,
                         .max_cols = std::max<int64_t>({config.hidden, config.ffn, q_width}),
                         .max_weight_rows =
                             std::max<int64_t>({config.hidden, config.ffn, q_width, config.vocab}),
                         .max_pages = (total + kPage - 1) / kPage,
                         .heads = config.query_heads,
                         .kv_heads = config.kv_heads,
                         .head_dim = config.head_dim,
                         .page = kPage});
  Workspace workspace(config, kChunk, 1);
  Watcher watcher(config, options.tokens);
  CacheConfig cache_config;
  cache_config.layers = config.layers;
  cache_config.query_heads = config.query_heads;
  cache_config.shape = {config.kv_heads, config.head_dim, kPage, DType::kF16};
  cache_config.max_context = total;
  SequenceCache cache(cache_config, watcher.plan(cache_config), *backend);
  const auto state = watcher.make_state(cache_config);
  prefill({ctx, *backend, model, watcher, workspace}, {cache, *state}, text, kChunk, {}, nullptr,
          proceed);

  const int64_t watched = total - options.tokens;
  return {config.name,     config.layers,         config.query_heads,
          config.kv_heads, watcher.echo(watched), watcher.induction(watched)};
}

}  // namespace freekv
