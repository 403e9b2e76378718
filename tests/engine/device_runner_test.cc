// What the engine tells a device and makes of what it counts, with a device that is made up.
#include "engine/device_runner.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "engine/engine_options.hpp"
#include "engine/host_runner.hpp"
#include "engine/kept_queries.hpp"
#include "kvcache/page_layout.hpp"
#include "tiny_model.hpp"

namespace freekv {
namespace {

/// Its logits are the token and the sequence's length.
class FakeDevice final : public DeviceModel {
 public:
  explicit FakeDevice(const DeviceModelSpec& spec) : spec_(spec) { last_spec() = spec; }

  static DeviceModelSpec& last_spec() {
    static DeviceModelSpec spec;
    return spec;
  }
  static DevicePrefix& last_prefix() {
    static DevicePrefix prefix;
    return prefix;
  }
  static int& open_sequences() {
    static int count = 0;
    return count;
  }

  Footprint footprint(int64_t context) const override {
    const auto tokens = static_cast<size_t>(context);
    return {tokens, 10 * tokens, 100};
  }
  const std::string& device() const override { return name_; }
  std::shared_ptr<DeviceWeights> weights() const override { return weights_; }
  int32_t open(int64_t) override {
    ++open_sequences();
    tokens_.push_back(0);
    return static_cast<int32_t>(tokens_.size()) - 1;
  }
  void close(int32_t) noexcept override { --open_sequences(); }
  int64_t tokens(int32_t sequence) const override { return tokens_[size_t(sequence)]; }
  View<const float, 1> prefill(int32_t sequence, std::span<const int32_t> ids,
                               const std::function<bool(int64_t)>& proceed,
                               const DevicePrefix& prefix, const DeviceQueries& queries) override {
    const auto count = static_cast<int64_t>(ids.size());
    last_prefix() = prefix;
    tokens_[size_t(sequence)] = count;
    if (proceed && !proceed(count)) throw Error(ErrorCode::kCancelled, "fake");
    const int64_t computed = count - std::max(queries.first, prefix.tokens);
    if (queries.take && computed > 0) {
      const int heads = spec_.query_heads, dim = spec_.kv.head_dim;
      std::vector<float> values(size_t(computed * heads * dim));
      for (int layer = 0; layer < static_cast<int>(spec_.layers.size()); ++layer) {
        for (int64_t i = 0; i < computed * heads * dim; ++i) {
          values[size_t(i)] = query(layer, count - computed + i / (heads * dim), i % (heads * dim));
        }
        queries.take(layer, View<const float, 3>(values.data(), computed, heads, dim));
      }
    }
    const auto out = logits(1)[0];
    out[0] = static_cast<float>(ids.back());
    return View<const float, 1>(out.data(), prefix.tokens == count ? 0 : spec_.vocab);
  }
  View<const float, 2> decode(std::span<const int32_t> sequences,
                              std::span<const int32_t> ids) override {
    const auto out = logits(static_cast<int64_t>(ids.size()));
    for (size_t i = 0; i < ids.size(); ++i) {
      out[static_cast<int64_t>(i)][0] = static_cast<float>(ids[i]);
      out[static_cast<int64_t>(i)][1] = static_cast<float>(++tokens_[size_t(sequences[i])]);
    }
    return out;
  }
  struct ReadCall {
    int layer;
    int64_t first, count;
  };
  static std::vector<ReadCall>& reads() {
    static std::vector<ReadCall> calls;
    return calls;
  }
  static float query(int layer, int64_t token, int64_t element) {
    return scale() * static_cast<float>((7 * layer + 3 * token + element) % 11 - 5);
  }
  static float& scale() {
    static float value = 1;
    return value;
  }
  void read_tokens(int32_t, int32_t layer, int64_t first, View<float, 3> k,
                   View<float, 3> v) const override {
    reads().push_back({layer, first, k.shape(0)});
    for (int64_t i = 0; i < k.size(); ++i) {
      k.data()[i] = static_cast<float>((i + first) % 7) - 3;
      v.data()[i] = scale() * static_cast<float>((i + first) % 5);
    }
  }
  void counters(int32_t, std::span<LayerCounters> out) const override {
    for (size_t l = 0; l < out.size(); ++l) out[l] = {6, 40, 3, 2, 5, l, 0.5};
  }

 private:
  View<float, 2> logits(int64_t n) {
    logits_.assign(static_cast<size_t>(n * spec_.vocab), 0);
    return View<float, 2>(logits_.data(), n, spec_.vocab);
  }

  DeviceModelSpec spec_;
  std::string name_ = "Fake 1";
  std::shared_ptr<DeviceWeights> weights_ =
      spec_.uploaded ? spec_.uploaded : std::make_shared<DeviceWeights>();
  std::vector<int64_t> tokens_;
  std::vector<float> logits_;
};

const DeviceLibrary& fake_library() {
  static const DeviceLibrary library{
      .interface = kDeviceInterface,
      .version = "test",
      .describe =
          [] {
            return DeviceInfo{"Fake 1", 1, 2};
          },
      .open = [](const DeviceModelSpec& spec) -> std::unique_ptr<DeviceModel> {
        return std::make_unique<FakeDevice>(spec);
      },
      .bench = nullptr};
  return library;
}

class DeviceRunnerTest : public testing::Test {
 protected:
  std::unique_ptr<Runner> make(const std::string& policy, const Runner* like = nullptr) {
    options_.policy = policy;
    options_.backend = "cuda";
    policy_ = make_policy(policy);
    return make_device_runner(fake_library(), model_, *policy_, options_, nullptr, like);
  }
  std::string refusal(const std::string& policy) {
    try {
      make(policy);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      return error.what();
    }
    return "";
  }

  TemporaryModel file_;
  Model model_{file_.path()};
  EngineOptions options_ = tiny_options(file_);
  std::unique_ptr<Policy> policy_;
};

TEST_F(DeviceRunnerTest, PoliciesWithoutADeviceRuleAreRefusedByName) {
  for (const char* policy : {"streaming", "freekv:sketch=mean", "freekv:recall=streamed",
                             "quest:sketch=cuboid", "freekv-coverage:recall=streamed", "oracle"}) {
    EXPECT_THAT(refusal(policy),
                testing::AllOf(testing::HasSubstr(std::string("policy ") + policy + " does not"),
                               testing::EndsWith("freekv, freekv-coverage, full, quest")));
  }
  options_.activations = "int8";
  EXPECT_THAT(refusal("full"), testing::HasSubstr("int8"));
}

TEST_F(DeviceRunnerTest, TheRuleIsThePolicysOptions) {
  make("freekv:tau=-1,pooling=max_score,dense_layers=1,resident=2");
  const DeviceModelSpec spec = FakeDevice::last_spec();
  EXPECT_TRUE(spec.rule.budgeted && spec.rule.slow && spec.rule.selects && spec.rule.speculative);
  EXPECT_EQ(spec.rule.tau, -1);
  EXPECT_EQ(spec.rule.pooling, Pooling::kMaxScore);
  EXPECT_EQ(spec.rule.dense_layers, 1);
  const CacheConfig cache = cache_config(options_, model_.config(), options_.context);
  const PageLayout layout(cache, policy_->plan(cache));
  EXPECT_EQ(spec.pages.budget, options_.budget);
  EXPECT_EQ(spec.pages.sink, layout.sink_pages());
  EXPECT_EQ(spec.pages.window, layout.window_pages());
  EXPECT_EQ(spec.pages.selected, layout.selected());
  EXPECT_EQ(spec.pages.resident, 2 * layout.selected());
  EXPECT_EQ(spec.layers.size(), 3u);
  EXPECT_EQ(spec.frequencies.size(), 8u);

  make("quest");
  const RetrievalRule quest = FakeDevice::last_spec().rule;
  EXPECT_TRUE(quest.selects && !quest.budgeted && !quest.slow && !quest.speculative);
  EXPECT_EQ(quest.dense_layers, 2);
  EXPECT_EQ(quest.pooling, Pooling::kMaxScore);
  EXPECT_EQ(quest.sketch, SketchKind::kMinMax);
  for (const char* policy : {"quest:sketch=key2", "freekv:sketch=key2"}) {
    make(policy);
    EXPECT_EQ(FakeDevice::last_spec().rule.sketch, SketchKind::kKey2) << policy;
  }
  EXPECT_FALSE(FakeDevice::last_spec().rule.coverage);
  EXPECT_EQ(FakeDevice::last_spec().pages.beside, 0);
  make("freekv-coverage:epsilon=0.125,dense_layers=1,resident=1.5");
  const DeviceModelSpec coverage = FakeDevice::last_spec();
  EXPECT_TRUE(coverage.rule.coverage && coverage.rule.speculative && coverage.rule.budgeted);
  EXPECT_EQ(coverage.rule.epsilon, 0.125);
  EXPECT_EQ(coverage.rule.sketch, SketchKind::kKey2);
  EXPECT_EQ(coverage.rule.pooling, Pooling::kMeanSoftmax);
  EXPECT_EQ(coverage.rule.dense_layers, 1);
  EXPECT_EQ(coverage.pages.beside, coverage.pages.resident - coverage.pages.selected);
  make("full");
  EXPECT_FALSE(FakeDevice::last_spec().rule.selects);
}

TEST_F(DeviceRunnerTest, CountersBecomeStatistics) {
  const auto runner = make("freekv:dense_layers=1");
  EXPECT_EQ(runner->device(), "Fake 1");
  const auto sequence = runner->new_sequence(512);
  const std::vector<int32_t> prompt(17, 5);
  runner->prefill(*sequence, prompt, nullptr, nullptr);
  RunnerSequence* const batch[] = {sequence.get()};
  const int32_t token = 9;
  const auto logits = runner->decode(batch, {&token, 1});
  EXPECT_EQ(logits[0][0], 9);
  EXPECT_EQ(logits[0][1], 18);
  const RetrievalStats& stats = sequence->stats();
  EXPECT_EQ(stats.pages_selected, 3u * 40);
  EXPECT_EQ(stats.pages_selected, stats.hits + stats.misses_before + stats.misses_after);
  EXPECT_EQ(stats.bytes_recalled, 3u * 5 * 2 * 8 * 16 * 2);         // K and V, p = 8, d = 16, f16
  EXPECT_EQ(stats.bytes_offloaded, 2u * 2 * 2 * (2 * 8 * 16 * 2));  // pages, layers, heads
  EXPECT_EQ(stats.corrections_tested, 15u);
  EXPECT_THAT(stats.drifted_by_layer, testing::ElementsAre(0, 1, 2));
  EXPECT_EQ(stats.lost_mass_count, 0u);
  EXPECT_EQ(sequence->memory().slow_kv_bytes, runner->memory_for(512).slow_kv_bytes);
}

TEST_F(DeviceRunnerTest, CoverageSaysWhatIsLost) {
  const auto runner = make("freekv-coverage");
  const auto sequence = runner->new_sequence(512);
  const std::vector<int32_t> prompt(17, 5);
  runner->prefill(*sequence, prompt, nullptr, nullptr);
  const RetrievalStats& stats = sequence->stats();
  EXPECT_EQ(stats.corrections_tested, 15u);
  EXPECT_EQ(stats.lost_mass_count, 15u);
  EXPECT_DOUBLE_EQ(stats.lost_mass_sum, 1.5);
}

// Pages of 8 tokens.
TEST_F(DeviceRunnerTest, PrefillIsToldWhatAnotherSequenceHasInCommon) {
  const auto dense = make("full"), sparse = make("freekv");
  const auto source = dense->new_sequence(512), other = sparse->new_sequence(512);
  std::vector<int32_t> prompt(21);
  std::iota(prompt.begin(), prompt.end(), 1);
  const auto taken = [&](std::span<const int32_t> tokens, const RunnerSequence* like) {
    const auto logits = sparse->prefill(*other, tokens, nullptr, like);
    EXPECT_EQ(logits.shape(0), model_.config().vocab);
    EXPECT_EQ(logits[0], static_cast<float>(tokens.back()));
    EXPECT_EQ(other->kept_tokens(), FakeDevice::last_prefix().tokens);
    return other->kept_tokens();
  };
  EXPECT_EQ(taken(prompt, nullptr), 0);
  EXPECT_EQ(taken(prompt, source.get()), 0);  // it has no prompt yet
  dense->prefill(*source, prompt, nullptr, nullptr);
  RunnerSequence* const batch[] = {source.get()};
  const int32_t token = 99;
  dense->decode(batch, {&token, 1});
  // All of the same prompt, with the logits after it; decoded tokens are not taken.
  EXPECT_EQ(taken(prompt, source.get()), 21);
  EXPECT_EQ(taken(prompt, other.get()), 21);
  std::vector<int32_t> longer = prompt;
  longer.insert(longer.end(), {token, 5, 6, 7});
  EXPECT_EQ(taken(longer, source.get()), 16);
  EXPECT_EQ(taken(longer, other.get()), 25);
  // The last token's logits are computed.
  EXPECT_EQ(taken(std::span(prompt).first(16), source.get()), 8);
  EXPECT_EQ(taken(std::span(prompt).first(17), source.get()), 16);
  prompt[9] = 0;
  EXPECT_EQ(taken(prompt, source.get()), 8);
  options_.kv_type = "bf16";
  const auto rounded = make("full");
  const auto third = rounded->new_sequence(512);
  rounded->prefill(*third, prompt, nullptr, source.get());
  EXPECT_EQ(third->kept_tokens(), 0);  // KV of another type
  // A prompt that was not finished is no prefix.
  const auto stop = [](int64_t) { return false; };
  EXPECT_THROW(sparse->prefill(*other, prompt, stop, other.get()), Error);
  EXPECT_EQ(taken(prompt, other.get()), 0);
}

// The last token's logits are computed, and the KV of policies that want all queries.
TEST_F(DeviceRunnerTest, TheHostGoesOnFromWhatADeviceHasRead) {
  const auto dense = make("full");
  const auto source = dense->new_sequence(512);
  std::vector<int32_t> prompt(21);
  std::iota(prompt.begin(), prompt.end(), 1);
  dense->prefill(*source, prompt, nullptr, nullptr);
  options_.backend = "reference";
  options_.chunk = 8;
  const auto kept = [&](const std::string& name) {
    const auto policy = make_policy(name);
    const auto host = make_host_runner(model_, *policy, options_, nullptr);
    // One that has seen a prompt need not see its queries again: each prefill has its own.
    const auto early = host->new_sequence(512), sequence = host->new_sequence(512);
    source->started = false;
    host->prefill(*early, prompt, nullptr, source.get());
    EXPECT_EQ(early->kept_tokens(), 0) << name << ": the source has not started";
    source->started = true;
    FakeDevice::reads().clear();
    const auto logits = host->prefill(*sequence, prompt, nullptr, source.get());
    const float first = logits[0];
    // Every token of every layer once, in order.
    std::vector<int64_t> next(3, 0);
    for (const auto& [layer, from, count] : FakeDevice::reads()) {
      EXPECT_EQ(from, next[static_cast<size_t>(layer)]) << name;
      next[static_cast<size_t>(layer)] += count;
    }
    EXPECT_THAT(next, testing::Each(sequence->kept_tokens())) << name;
    if (sequence->kept_tokens() > 0) {  // what was read is what is attended to
      FakeDevice::scale() = 2;
      EXPECT_NE(host->prefill(*sequence, prompt, nullptr, source.get())[0], first) << name;
      FakeDevice::scale() = 1;
    }
    return sequence->kept_tokens();
  };
  EXPECT_EQ(kept("full"), 20);
  EXPECT_EQ(kept("oracle"), 20);
  EXPECT_EQ(kept("h2o"), 0);
  options_.kv_type = "bf16";
  EXPECT_EQ(kept("full"), 0);  // KV of another type
}

// Then they need not be computed again.
TEST_F(DeviceRunnerTest, AHostsPolicyLooksAtTheQueriesThatADeviceKept) {
  const auto dense = make("full");
  const auto source = dense->new_sequence(512), other = dense->new_sequence(512);
  std::vector<int32_t> prompt(141);
  std::iota(prompt.begin(), prompt.end(), 1);
  options_.backend = "reference";
  options_.chunk = 8;
  const auto kept = [&](const std::string& name, const RunnerSequence& from) {
    const auto policy = make_policy(name);
    const auto host = make_host_runner(model_, *policy, options_, nullptr);
    const auto sequence = host->new_sequence(512);
    host->prefill(*sequence, prompt, nullptr, &from);
    return sequence->kept_tokens();
  };
  for (const auto& [tokens, of_last, of_all] : std::vector<std::array<int64_t, 3>>{
           {0, 109, 0}, {31, 109, 0}, {32, 140, 0}, {141, 140, 140}}) {
    SCOPED_TRACE(tokens);
    if (tokens > 0) dense->keep_queries(*source, tokens);
    dense->prefill(*source, prompt, nullptr, nullptr);
    source->started = true;
    EXPECT_EQ(kept("snapkv", *source), of_last);  // looks at 32
    EXPECT_EQ(kept("h2o", *source), of_all);
    if (tokens == 0) continue;
    const KeptQueries* queries = source->known().queries;
    ASSERT_NE(queries, nullptr);
    ASSERT_EQ(queries->first(), 141 - tokens);
    for (int layer = 0; layer < 3; ++layer) {
      const auto q = queries->of(layer, queries->first(), tokens);
      for (int64_t i = 0; i < q.size(); ++i) {
        const int64_t row = q.size() / tokens;
        ASSERT_EQ(q.data()[i], FakeDevice::query(layer, queries->first() + i / row, i % row))
            << layer;
      }
    }
  }
  // Of what is taken over from another sequence none are there.
  dense->keep_queries(*other, 141);
  dense->prefill(*other, prompt, nullptr, source.get());
  other->started = true;
  EXPECT_EQ(other->kept_tokens(), 141);
  EXPECT_EQ(kept("snapkv", *other), 109);
  EXPECT_EQ(kept("oracle", *other), 140);
}

TEST_F(DeviceRunnerTest, SequencesAreClosedAndWeightsShared) {
  const auto first = make("full");
  const auto second = make("freekv", first.get());
  EXPECT_NE(FakeDevice::last_spec().uploaded, nullptr);
  { const auto sequence = second->new_sequence(100); }
  EXPECT_EQ(FakeDevice::open_sequences(), 0);
}

}  // namespace
}  // namespace freekv
