#include "engine/host_runner.hpp"

#include <algorithm>

#include "core/check.hpp"
#include "engine/decode_step.hpp"
#include "engine/engine_options.hpp"
#include "engine/policy_model.hpp"
#include "engine/prefill.hpp"

namespace freekv {
namespace {

std::unique_ptr<Backend> make_backend(const EngineOptions& options) {
  const Activations activations = parse_activations(options.activations);
  if (options.backend == "cpu") return make_cpu_backend(activations);
  return make_reference_backend(activations);
}

struct HostSequence final : public RunnerSequence {
  HostSequence(const CacheConfig& config, const CacheNeeds& needs, Backend& backend,
               const Policy& policy, CacheServices services)
      : cache(config, needs, backend, std::move(services)), state(policy.make_state(config)) {}

  int64_t tokens() const override { return cache.tokens(); }
  int64_t context() const override { return cache.config().max_context; }
  int64_t kept_tokens() const override { return kept; }
  const RetrievalStats& stats() const override { return cache.stats(); }
  MemoryStats memory() const override { return cache.memory(); }

  SequenceCache cache;
  std::unique_ptr<PolicyState> state;
  std::vector<int32_t> prompt;         // whose KV, as prefill made it, the cache begins with
  int64_t length = 0;                  // of the prompt that these are the tokens of
  int64_t kept = 0;                    // tokens of the last prompt that were not computed
  std::optional<KeptQueries> queries;  // of the prompt's last tokens
  std::vector<int32_t> seen;           // the prompt whose queries `state` has seen, to its end
};

/// The first tokens that a prompt has in common with one of which KV exists. `length` is that of
/// the whole prompt in which they were computed: some rotary frequencies depend on it.
int64_t common_tokens(const RopeFrequencies& rope, std::span<const int32_t> prompt,
                      std::span<const int32_t> known, int64_t length) {
  if (rope.depends_on_length(static_cast<int64_t>(prompt.size()), length)) return 0;
  const auto differs =
      std::mismatch(prompt.begin(), prompt.end(), known.begin(), known.end()).first;
  return differs - prompt.begin();
}

/// Whether KV can be copied: it has the same form but for the page.
bool can_copy(const CacheConfig& to, int layers, const KvShape& kv) {
  return to.layers == layers && to.shape.heads == kv.heads && to.shape.head_dim == kv.head_dim &&
         to.shape.dtype == kv.dtype;
}

class HostRunner final : public Runner {
 public:
  HostRunner(const Model& model, Policy& policy, const EngineOptions& options,
             const LoadProgress& on_load)
      : model_(model),
        policy_(policy),
        options_(options),
        backend_(make_backend(options)),
        policy_model_(model, options.max_batch),
        ctx_(options.threads),
        workspace_(model.config(), options.chunk, options.max_batch) {
    const ModelConfig& config = model.config();
    const int64_t q_width = int64_t{config.query_heads} * config.head_dim;
    backend_->reserve(
        ctx_,
        {.max_rows = options.max_batch,
         .max_chunk = options.chunk,
         .max_cols = std::max<int64_t>({config.hidden, config.ffn, q_width}),
         .max_weight_rows = std::max<int64_t>({config.hidden, config.ffn, q_width, config.vocab}),
         .max_pages = cache_config(options, config, options.context).max_pages(),
         .heads = config.query_heads,
         .kv_heads = config.kv_heads,
         .head_dim = config.head_dim,
         .page = options.page});
    batch_.reserve(static_cast<size_t>(options.max_batch));
    model.load(ctx_.pool(), on_load);
  }

  const std::string& device() const override { return options_.backend; }

  MemoryStats memory_for(int64_t context) const override {
    const CacheConfig config = cache_config(options_, model_.config(), context);
    const CacheNeeds needs = policy_.plan(config);
    const PageLayout layout(config, needs);
    MemoryStats memory;
    for (int i = 0; i < config.layers; ++i) {
      const LayerPlan plan(config, needs, i);
      const size_t slot = config.shape.slot_bytes();
      memory.fast_kv_bytes += slot * static_cast<size_t>(plan.fast_slots(config, layout));
      if (plan.slow) memory.slow_kv_bytes += slot * static_cast<size_t>(config.max_pages());
      if (!plan.sketched) continue;
      const SketchStore sketches(find_sketch(needs.sketch), config.shape,
                                 static_cast<int32_t>(config.max_pages()));
      memory.sketch_bytes += sketches.used_bytes(static_cast<int32_t>(config.max_pages()));
    }
    return memory;
  }

  std::unique_ptr<RunnerSequence> new_sequence(int64_t context) override {
    const CacheConfig config = cache_config(options_, model_.config(), context);
    return std::make_unique<HostSequence>(config, policy_.plan(config), *backend_, policy_,
                                          CacheServices{recall_, nullptr});
  }

  void keep_queries(RunnerSequence& sequence, int64_t tokens) override {
    const ModelConfig& config = model_.config();
    static_cast<HostSequence&>(sequence).queries.emplace(config.layers, config.query_heads,
                                                         config.head_dim, tokens);
  }

  View<const float, 1> prefill(RunnerSequence& sequence, std::span<const int32_t> prompt,
                               const std::function<bool(int64_t)>& proceed,
                               const RunnerSequence* like) override {
    auto& s = static_cast<HostSequence&>(sequence);
    // What a policy makes of queries depends on nothing but the prompt.
    PrefillPrefix prefix;
    prefix.observed = std::ranges::equal(s.seen, prompt) && s.state->rewind();
    s.seen.clear();
    const int64_t kept = take_over(s, prompt, like, prefix);
    s.kept = kept + prefix.tokens;
    s.prompt.clear();
    if (kept > 0) {
      s.cache.truncate(ctx_, kept);
    } else {
      s.cache.reset();
    }
    if (!prefix.observed) s.state = policy_.make_state(s.cache.config());
    s.length = static_cast<int64_t>(prompt.size());
    if (s.queries) s.queries->begin(s.length, s.kept);
    try {
      const auto logits =
          freekv::prefill(step(), {s.cache, *s.state, &policy_model_}, prompt, options_.chunk,
                          prefix, s.queries ? &*s.queries : nullptr, proceed);
      s.prompt.assign(prompt.begin(), prompt.end());
      s.seen = s.prompt;
      return logits[0];
    } catch (const Error& error) {
      // Between two chunks the cache is whole, and a later call may go on from there.
      if (error.code() == ErrorCode::kCancelled) {
        s.prompt.assign(prompt.begin(), prompt.begin() + s.cache.tokens());
      }
      throw;
    }
  }

  View<const float, 2> decode(std::span<RunnerSequence* const> sequences,
                              std::span<const int32_t> tokens) override {
    batch_.clear();
    for (RunnerSequence* sequence : sequences) {
      auto& s = static_cast<HostSequence&>(*sequence);
      batch_.push_back({s.cache, *s.state, &policy_model_});
    }
    try {
      return decode_step(step(), batch_, tokens);
    } catch (...) {
      for (RunnerSequence* sequence : sequences) {
        static_cast<HostSequence&>(*sequence).prompt.clear();
      }
      throw;
    }
  }

 private:
  /// How many first tokens of the prompt stay in the sequence's own cache; adds to `prefix` what is
  /// copied from another's.
  int64_t take_over(const HostSequence& s, std::span<const int32_t> prompt,
                    const RunnerSequence* like, PrefillPrefix& prefix) const {
    if (!like) return 0;
    const auto size = static_cast<int64_t>(prompt.size());
    const int64_t unseen = prefix.observed ? size - 1 : tokens_without_queries(s.cache, size);
    if (like == &s) {
      if (!s.cache.keeps_all()) return 0;
      return std::min(common_tokens(model_.rope(), prompt, s.prompt, s.length), unseen);
    }
    if (!like->started) return 0;
    // The last token's logits are computed, and what a policy must see and nobody has kept.
    const auto take = [&](const KeptQueries* queries, int64_t common) {
      const bool seen = queries && queries->first() <= first_observed(s.cache, size);
      prefix.tokens = std::min(common, seen ? size - 1 : unseen);
      prefix.queries = seen ? queries : nullptr;
    };
    if (const auto* host = dynamic_cast<const HostSequence*>(like)) {
      const CacheConfig& from = host->cache.config();
      if (!can_copy(s.cache.config(), from.layers, from.shape) || !host->cache.keeps_all())
        return 0;
      prefix.cache = &host->cache;
      take(host->queries ? &*host->queries : nullptr,
           common_tokens(model_.rope(), prompt, host->prompt, host->length));
      return 0;
    }
    KnownPrompt known = like->known();
    if (!can_copy(s.cache.config(), known.layers, known.kv)) return 0;
    const auto length = static_cast<int64_t>(known.tokens.size());
    take(known.queries, common_tokens(model_.rope(), prompt, known.tokens, length));
    prefix.read = std::move(known.read);
    return 0;
  }

  StepContext step() { return {ctx_, *backend_, model_, policy_, workspace_}; }

  const Model& model_;
  Policy& policy_;
  EngineOptions options_;
  std::unique_ptr<Backend> backend_;
  PolicyModel policy_model_;
  ExecutionContext ctx_;
  Workspace workspace_;
  // One for all sequences; its threads start with the first that recalls.
  std::shared_ptr<RecallEngine> recall_ = std::make_shared<RecallEngine>();
  std::vector<PolicySequence> batch_;  // of the step under way
};

}  // namespace

std::unique_ptr<Runner> make_host_runner(const Model& model, Policy& policy,
                                         const EngineOptions& options,
                                         const LoadProgress& on_load) {
  return std::make_unique<HostRunner>(model, policy, options, on_load);
}

}  // namespace freekv
