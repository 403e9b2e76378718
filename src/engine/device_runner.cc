#include "engine/device_runner.hpp"

#include <algorithm>
#include <optional>

#include "core/check.hpp"
#include "engine/engine_options.hpp"
#include "engine/kept_queries.hpp"
#include "kvcache/page_layout.hpp"

namespace freekv {
namespace {

RetrievalRule rule_of(const Policy& policy, const EngineOptions& options) {
  const auto rule = policy.device_rule();
  if (!rule) {
    fail(ErrorCode::kUnsupported,
         "policy {} does not run on backend {}; with their default keys these do: {}",
         options.policy, options.backend, device_policy_names());
  }
  return *rule;
}

DevicePages pages_of(const CacheConfig& config, const CacheNeeds& needs) {
  const PageLayout layout(config, needs);
  return {.page = layout.page(),
          .budget = config.tokens.budget,
          .sink = layout.sink_pages(),
          .window = layout.window_pages(),
          .selected = layout.selected(),
          .resident = layout.resident(),
          .beside = layout.attended_selected() - layout.selected()};
}

/// Without the rule.
DeviceModelSpec spec_of(const Model& model, const Policy& policy, const EngineOptions& options) {
  const ModelConfig& config = model.config();
  if (config.rope.scaling == RopeScaling::kDynamic) {
    fail(ErrorCode::kUnsupported, "dynamic NTK scaling of RoPE does not run on backend {}",
         options.backend);
  }
  if (parse_activations(options.activations) == Activations::kInt8) {
    fail(ErrorCode::kUnsupported, "activations is \"{}\", backend {} takes f32 or auto",
         options.activations, options.backend);
  }
  const CacheConfig cache = cache_config(options, config, options.context);
  const ModelWeights& weights = model.weights();
  DeviceModelSpec spec;
  spec.hidden = config.hidden;
  spec.ffn = config.ffn;
  spec.query_heads = config.query_heads;
  spec.vocab = config.vocab;
  spec.norm_eps = config.norm_eps;
  spec.rope_style = config.rope.style;
  spec.rope_scale = config.rope.attention_factor;
  spec.frequencies = model.rope().values();
  spec.embedding = weights.embedding;
  spec.layers = weights.layers;
  spec.final_norm = weights.final_norm;
  spec.logits = weights.logits;
  spec.kv = cache.shape;
  spec.pages = pages_of(cache, policy.plan(cache));
  spec.fast_limit_bytes = cache.fast_limit_bytes;
  spec.slow_limit_bytes = cache.slow_limit_bytes;
  spec.max_batch = options.max_batch;
  spec.context = options.context;
  spec.threads = options.threads;
  return spec;
}

MemoryStats memory_of(const DeviceModel::Footprint& size) {
  return {.fast_kv_bytes = size.fast, .slow_kv_bytes = size.slow, .sketch_bytes = size.sketch};
}

class DeviceSequence final : public RunnerSequence {
 public:
  DeviceSequence(DeviceModel& model, const DeviceModelSpec& spec, int64_t context)
      : model_(model),
        kv_(spec.kv),
        context_(context),
        index_(model.open(context)),
        rule_(spec.rule) {
    const auto layers = spec.layers.size();
    counters_.resize(layers);
    stats_.drifted_by_layer.resize(layers);
    head_page_bytes_ = spec.kv.head_page_bytes();
    if (rule_.slow && context > spec.pages.budget) {
      const auto dense = std::min(layers, static_cast<size_t>(rule_.dense_layers));
      page_bytes_ = (layers - dense) * spec.kv.slot_bytes();
    }
    page_ = spec.pages.page;
  }
  ~DeviceSequence() override { model_.close(index_); }
  DeviceSequence(const DeviceSequence&) = delete;
  DeviceSequence& operator=(const DeviceSequence&) = delete;

  int32_t index() const { return index_; }
  const DeviceModel& model() const { return model_; }
  int64_t tokens() const override { return model_.tokens(index_); }
  int64_t context() const override { return context_; }
  int64_t kept_tokens() const override { return kept; }
  MemoryStats memory() const override { return memory_of(model_.footprint(context_)); }
  KnownPrompt known() const override {
    return {prompt, static_cast<int>(counters_.size()), kv_,
            [this](int layer, int64_t first, View<float, 3> k, View<float, 3> v) {
              model_.read_tokens(index_, layer, first, k, v);
            },
            queries ? &*queries : nullptr};
  }
  const KvShape& kv() const { return kv_; }

  /// What the device counted is fetched when somebody asks.
  const RetrievalStats& stats() const override {
    if (!stale_) return stats_;
    model_.counters(index_, counters_);
    stats_.clear();
    for (size_t l = 0; l < counters_.size(); ++l) {
      const DeviceModel::LayerCounters& layer = counters_[l];
      stats_.selections += layer.selections;
      stats_.pages_selected += layer.pages_selected;
      stats_.misses_before += layer.misses_before;
      stats_.misses_after += layer.misses_after;
      // Where nothing is speculated every head selects with its own query, and none is tested.
      if (!rule_.speculative) continue;
      stats_.corrections_tested += layer.tested;
      stats_.drifted_by_layer[l] = layer.drifted;
      if (!rule_.coverage) continue;
      stats_.lost_mass_sum += layer.lost_mass;
      stats_.lost_mass_count += layer.tested;
    }
    const uint64_t misses = stats_.misses_before + stats_.misses_after;
    stats_.hits = stats_.pages_selected - misses;
    stats_.bytes_recalled = misses * head_page_bytes_;
    stats_.bytes_offloaded = static_cast<uint64_t>(tokens() / page_) * page_bytes_;
    stale_ = false;
    return stats_;
  }
  void moved() { stale_ = true; }

  std::vector<int32_t> prompt;         // whose KV, as prefill made it, the sequence begins with
  std::vector<float> prompt_logits;    // after it
  int64_t kept = 0;                    // tokens of the last prompt that were not computed
  std::optional<KeptQueries> queries;  // of the prompt's last tokens

 private:
  DeviceModel& model_;
  KvShape kv_;
  int64_t context_;
  int32_t index_;
  RetrievalRule rule_;
  int page_ = 1;
  uint64_t head_page_bytes_ = 0;
  uint64_t page_bytes_ = 0;  // that a filled page writes to the slow tier, all layers
  mutable std::vector<DeviceModel::LayerCounters> counters_;
  mutable RetrievalStats stats_;
  mutable bool stale_ = false;
};

class DeviceRunner final : public Runner {
 public:
  DeviceRunner(const DeviceLibrary& library, const DeviceModelSpec& spec)
      : spec_(spec), model_(library.open(spec)) {
    spec_.uploaded = nullptr;
    spec_.on_load = nullptr;
    batch_.reserve(static_cast<size_t>(spec.max_batch));
  }

  const std::string& device() const override { return model_->device(); }
  std::shared_ptr<DeviceWeights> weights() const { return model_->weights(); }
  MemoryStats memory_for(int64_t context) const override {
    return memory_of(model_->footprint(context));
  }
  std::unique_ptr<RunnerSequence> new_sequence(int64_t context) override {
    return std::make_unique<DeviceSequence>(*model_, spec_, context);
  }

  void keep_queries(RunnerSequence& sequence, int64_t tokens) override {
    static_cast<DeviceSequence&>(sequence).queries.emplace(
        static_cast<int>(spec_.layers.size()), spec_.query_heads, spec_.kv.head_dim, tokens);
  }

  View<const float, 1> prefill(RunnerSequence& sequence, std::span<const int32_t> prompt,
                               const std::function<bool(int64_t)>& proceed,
                               const RunnerSequence* like) override {
    auto& s = static_cast<DeviceSequence&>(sequence);
    const auto* from = dynamic_cast<const DeviceSequence*>(like);
    const DevicePrefix prefix = from ? take_over(prompt, *from) : DevicePrefix{};
    s.moved();
    s.kept = prefix.tokens;
    s.prompt.clear();  // until the prompt's end nothing of the sequence is certain
    const auto logits =
        model_->prefill(s.index(), prompt, proceed, prefix, begin_queries(s, prompt));
    if (logits.size() > 0) {
      s.prompt_logits.assign(logits.data(), logits.data() + logits.size());
    } else if (from != &s) {
      s.prompt_logits = from->prompt_logits;
    }
    s.prompt.assign(prompt.begin(), prompt.end());
    return View<const float, 1>(s.prompt_logits.data(), spec_.vocab);
  }

  View<const float, 2> decode(std::span<RunnerSequence* const> sequences,
                              std::span<const int32_t> tokens) override {
    batch_.clear();
    for (RunnerSequence* sequence : sequences) {
      auto& s = static_cast<DeviceSequence&>(*sequence);
      s.moved();
      batch_.push_back(s.index());
    }
    try {
      return model_->decode(batch_, tokens);
    } catch (...) {
      for (RunnerSequence* sequence : sequences) {
        static_cast<DeviceSequence&>(*sequence).prompt.clear();
      }
      throw;
    }
  }

 private:
  /// Queries are kept of what is not taken over.
  static DeviceQueries begin_queries(DeviceSequence& s, std::span<const int32_t> prompt) {
    if (!s.queries) return {};
    const auto size = static_cast<int64_t>(prompt.size());
    s.queries->begin(size, s.kept);
    return {s.queries->first(), [&s, size](int layer, View<const float, 3> q) {
              s.queries->store(layer, size - q.shape(0), q);
            }};
  }

  /// All of a prompt that is the other's too; else, since the last token's logits have to be
  /// computed, whole pages before it.
  DevicePrefix take_over(std::span<const int32_t> prompt, const DeviceSequence& from) const {
    const KvShape &a = spec_.kv, &b = from.kv();
    if (a.heads != b.heads || a.head_dim != b.head_dim || a.dtype != b.dtype) return {};
    const auto& known = from.prompt;
    const auto differs =
        std::mismatch(prompt.begin(), prompt.end(), known.begin(), known.end()).first;
    int64_t common = differs - prompt.begin();
    if (prompt.size() != known.size() || differs != prompt.end()) {
      common = std::min(common, static_cast<int64_t>(prompt.size()) - 1);
      common -= common % spec_.pages.page;
    }
    return {&from.model(), from.index(), common};
  }

  DeviceModelSpec spec_;  // sizes and limits; its weights are on the device
  std::unique_ptr<DeviceModel> model_;
  std::vector<int32_t> batch_;  // of the step under way
};

}  // namespace

std::unique_ptr<Runner> make_device_runner(const DeviceLibrary& library, const Model& model,
                                           const Policy& policy, const EngineOptions& options,
                                           const LoadProgress& on_load, const Runner* like) {
  const RetrievalRule rule = rule_of(policy, options);
  DeviceModelSpec spec = spec_of(model, policy, options);
  spec.rule = rule;
  spec.on_load = on_load;
  if (const auto* other = dynamic_cast<const DeviceRunner*>(like)) spec.uploaded = other->weights();
  return std::make_unique<DeviceRunner>(library, spec);
}

}  // namespace freekv
