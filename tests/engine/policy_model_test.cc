// What policies are told about the model agrees with what the decode step does.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/decode_step.hpp"
#include "engine/policy_model.hpp"
#include "engine/prefill.hpp"
#include "engine/profile_heads.hpp"
#include "freekv/error.hpp"
#include "policies/retrieval.hpp"
#include "tiny_model.hpp"

namespace freekv {
namespace {

/// Dense attention that asks for every layer's query once more.
class Asking final : public Policy {
 public:
  CacheNeeds plan(const CacheConfig&) const override { return {}; }
  std::unique_ptr<PolicyState> make_state(const CacheConfig&) const override {
    return std::make_unique<PolicyState>();
  }
  void pages_for(LayerStep& step) override {
    const PolicySequence& sequence = step.sequences[0];
    const int64_t position = sequence.cache.tokens();
    std::vector<float> memory(static_cast<size_t>(step.q.size())), plain(memory);
    const View<float, 2> q(memory.data(), 1, step.q.size());
    sequence.model->project_query(step.ctx, step.backend, step.layer, step.input,
                                  std::span(&position, 1), q);
    EXPECT_TRUE(std::equal(memory.begin(), memory.end(), step.q.data())) << "layer " << step.layer;

    // Without RoPE at position 0, then turned: the same. And back again.
    const int64_t zero = 0;
    const View<float, 2> heads(plain.data(), step.q.shape(0) * step.q.shape(1), step.q.shape(2));
    sequence.model->project_query(step.ctx, step.backend, step.layer, step.input,
                                  std::span(&zero, 1),
                                  View<float, 2>(plain.data(), 1, step.q.size()));
    const std::vector<float> unturned = plain;
    sequence.model->rotate(position, position + 1, false, heads);
    for (size_t i = 0; i < plain.size(); ++i) ASSERT_NEAR(plain[i], memory[i], 1e-4);
    sequence.model->rotate(position, position + 1, true, heads);
    for (size_t i = 0; i < plain.size(); ++i) ASSERT_NEAR(plain[i], unturned[i], 1e-4);
    ++layers;
    set_dense_rows(step, 0);
  }
  int layers = 0;
};

TEST(PolicyModel, ProjectsAndTurnsAsTheDecodeStepDoes) {
  const TemporaryModel file;
  const Model model(file.path());
  const ModelConfig& config = model.config();
  ExecutionContext ctx(2);
  const auto backend = make_cpu_backend();
  backend->reserve(ctx, {.max_rows = 1,
                         .max_chunk = 32,
                         .max_cols = 256,
                         .max_weight_rows = config.vocab,
                         .max_pages = 8,
                         .heads = config.query_heads,
                         .kv_heads = config.kv_heads,
                         .head_dim = config.head_dim,
                         .page = 8});
  Workspace workspace(config, 32, 1);
  const PolicyModel view(model, 1);
  Asking policy;
  CacheConfig cache_config;
  cache_config.layers = config.layers;
  cache_config.query_heads = config.query_heads;
  cache_config.shape = {config.kv_heads, config.head_dim, 8, DType::kF16};
  cache_config.max_context = 64;
  SequenceCache cache(cache_config, policy.plan(cache_config), *backend);
  const auto state = policy.make_state(cache_config);
  const StepContext step{ctx, *backend, model, policy, workspace};
  const PolicySequence sequence{cache, *state, &view};
  const std::vector<int32_t> prompt(37, 65);
  prefill(step, sequence, prompt, 32, {}, nullptr, nullptr);
  for (const int32_t token : {7, 99, 200}) {
    decode_step(step, std::span(&sequence, 1), std::span(&token, 1));
  }
  EXPECT_EQ(policy.layers, 3 * config.layers);
}

TEST(ProfileHeads, RefusesTextThatDoesNotFit) {
  const TemporaryModel file;
  const Model model(file.path());
  EXPECT_THROW(profile_heads(model, {.tokens = 1025, .repeats = 2}), Error);
  EXPECT_THROW(profile_heads(model, {.tokens = 10, .repeats = 1}), Error);
  const HeadProfile profile = profile_heads(model, {.tokens = 20, .repeats = 3});
  EXPECT_EQ(profile.model, "tiny");
  EXPECT_EQ(profile.echo.size(), static_cast<size_t>(profile.layers * profile.query_heads));
  // Random weights look everywhere: about 2 copies of 40 tokens.
  for (const float score : profile.echo) EXPECT_LT(score, 0.5f);
}

// A short measurement already finds the heads of the profile that comes with the program.
TEST(ProfileHeads, FindsTheDemosRetrievalHeads) {
  const Model model(std::string(FREEKV_SOURCE_DIR) + "/models/freekv-demo.gguf");
  const HeadProfile known = demo_head_profile();
  EXPECT_EQ(known.model, model.config().name);
  const HeadProfile measured = profile_heads(model, {.tokens = 96, .repeats = 2, .threads = 2});
  // The two best of 12 KV heads.
  EXPECT_EQ(retrieval_heads(measured, 0.14, 0), retrieval_heads(known, 0.14, 0));
}

}  // namespace
}  // namespace freekv
