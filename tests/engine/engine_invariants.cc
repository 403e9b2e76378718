#include "engine_invariants.hpp"

#include <algorithm>
#include <cmath>
#include <random>

#include "policies/policy.hpp"
#include "support/base_specification.hpp"

namespace freekv {

std::vector<int32_t> random_tokens(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 256);
  return tokens;
}

namespace {

std::vector<float> copy(std::span<const float> logits) { return {logits.begin(), logits.end()}; }

}  // namespace

Logits run(Engine& engine, Sequence& sequence, std::span<const int32_t> tokens, size_t prompt,
           const Sequence* like) {
  engine.prefill(sequence, tokens.first(prompt), nullptr, like);
  Logits result = {copy(sequence.logits())};
  Sequence* const batch[] = {&sequence};
  for (size_t i = prompt; i < tokens.size(); ++i) {
    engine.decode(batch, tokens.subspan(i, 1));
    result.push_back(copy(sequence.logits()));
  }
  return result;
}

Logits run(const EngineOptions& options, std::span<const int32_t> tokens, size_t prompt) {
  Engine engine(options);
  const auto sequence = engine.new_sequence();
  return run(engine, *sequence, tokens, prompt);
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - want[i], 2);
    norm += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(difference / norm);
}

double relative_error(const Logits& got, const Logits& want) {
  double error = 0;
  for (size_t i = 0; i < got.size(); ++i) error = std::max(error, relative_error(got[i], want[i]));
  return error;
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.policy + "_" + info.param.backend;
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

int64_t EveryPolicy::observed_tokens() const {
  const TinyModelShape shape = shape_for(GetParam().backend);
  const EngineOptions engine = options();
  const CacheConfig config{.layers = shape.layers,
                           .query_heads = shape.query_heads,
                           .shape = {shape.kv_heads, shape.head_dim, engine.page, DType::kF32},
                           .max_context = shape.context,
                           .tokens = {engine.budget, engine.sink, engine.window}};
  return make_policy(engine.policy)->plan(config).observed;
}

// What a device computes after a prefix is in other chunks than without, and rounded to bf16: four
// times what rounding KV alone costs the tiny model on the host (engine_test.cc).
constexpr double kDeviceRounding = 0.08;

// Equal to the bit, but on a device. Selections part there where two pages score the same to within
// rounding, so that steps are held to it by their median.
void EveryPolicy::expect_as_computed(const Logits& taken, const Logits& computed) const {
  if (!on_device()) {
    EXPECT_EQ(taken, computed);
    return;
  }
  ASSERT_EQ(taken.size(), computed.size());
  std::vector<double> errors;
  for (size_t i = 0; i < taken.size(); ++i) {
    errors.push_back(relative_error(taken[i], computed[i]));
  }
  EXPECT_LT(errors.front(), kDeviceRounding) << "after the prompt";
  std::sort(errors.begin(), errors.end());
  EXPECT_LT(errors[errors.size() / 2], kDeviceRounding);
}

TEST_P(EveryPolicy, BudgetOfTheContextIsDenseBitForBit) {
  const auto tokens = random_tokens(200, 1);
  EngineOptions wide = options();
  wide.budget = 512;
  EngineOptions dense = wide;
  dense.policy = "full";
  EXPECT_EQ(run(wide, tokens, 150), run(dense, tokens, 150));
}

TEST_P(EveryPolicy, ASmallBudgetStaysFinite) {
  for (const auto& logits : run(options(), random_tokens(300, 2), 250)) {
    for (float value : logits) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST_P(EveryPolicy, ThreadsChangeNoBit) {
  const auto tokens = random_tokens(260, 3);
  EngineOptions one = options(), three = options();
  one.threads = 1;
  three.threads = 3;
  EXPECT_EQ(run(one, tokens, 220), run(three, tokens, 220));
}

TEST_P(EveryPolicy, ASecondRequestEqualsAFreshStart) {
  const auto first = random_tokens(280, 4), second = random_tokens(240, 5);
  Engine engine(options());
  const auto sequence = engine.new_sequence();
  run(engine, *sequence, first, 230);
  EXPECT_EQ(run(engine, *sequence, second, 200), run(options(), second, 200));
}

TEST_P(EveryPolicy, ABatchOfDifferentLengthsEqualsEachSequenceAlone) {
  const std::vector<std::vector<int32_t>> texts = {random_tokens(290, 6), random_tokens(60, 7),
                                                   random_tokens(140, 8)};
  constexpr size_t kSteps = 40;
  Engine engine(options());
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::vector<Sequence*> batch;
  std::vector<Logits> together(texts.size());
  for (const auto& text : texts) {
    sequences.push_back(engine.new_sequence());
    batch.push_back(sequences.back().get());
    engine.prefill(*batch.back(), std::span(text).first(text.size() - kSteps));
  }
  for (size_t step = 0; step < kSteps; ++step) {
    std::vector<int32_t> tokens;
    for (const auto& text : texts) tokens.push_back(text[text.size() - kSteps + step]);
    engine.decode(batch, tokens);
    for (size_t s = 0; s < batch.size(); ++s) together[s].push_back(copy(batch[s]->logits()));
  }
  for (size_t s = 0; s < texts.size(); ++s) {
    Logits alone = run(options(), texts[s], texts[s].size() - kSteps);
    alone.erase(alone.begin());
    EXPECT_EQ(together[s], alone) << "sequence " << s;
  }
}

TEST_P(EveryPolicy, ACopiedPrefixEqualsAComputedOne) {
  const auto tokens = random_tokens(290, 9);
  EngineOptions dense_options = options();
  dense_options.policy = "full";
  Engine dense(dense_options), engine(options());
  const auto source = dense.new_sequence();
  dense.prefill(*source, std::span(tokens).first(200));
  const auto sequence = engine.new_sequence();
  expect_as_computed(run(engine, *sequence, tokens, 250, source.get()),
                     run(options(), tokens, 250));
  if (on_device()) {
    EXPECT_EQ(sequence->kept_tokens(), 192);
  }
}

// With the queries of the other's prompt nothing but the last token is computed, even where the
// policy looks at them; where the prompts part, what follows is.
TEST_P(EveryPolicy, APrefixWithItsQueriesIsNotComputedAgain) {
  auto tokens = random_tokens(290, 19);
  EngineOptions dense_options = options();
  dense_options.policy = "full";
  Engine dense(dense_options), engine(options());
  const auto source = dense.new_sequence(0, 260), sequence = engine.new_sequence();
  dense.prefill(*source, std::span(tokens).first(250));
  Sequence* const batch[] = {source.get()};
  dense.decode(batch, std::span(tokens).first(1));
  expect_as_computed(run(engine, *sequence, tokens, 250, source.get()),
                     run(options(), tokens, 250));
  if (!on_device()) {
    EXPECT_EQ(sequence->kept_tokens(), 249);
  }
  tokens[230] ^= 1;
  expect_as_computed(run(engine, *sequence, tokens, 250, source.get()),
                     run(options(), tokens, 250));
  if (!on_device()) {
    EXPECT_EQ(sequence->kept_tokens(), 230);
  }
  // Of fewer tokens than a policy that looks at all of them asks for.
  const auto last = dense.new_sequence(0, 40);
  dense.prefill(*last, std::span(tokens).first(250));
  const auto third = engine.new_sequence();
  expect_as_computed(run(engine, *third, tokens, 250, last.get()), run(options(), tokens, 250));
  const int64_t observed = engine.observed_tokens(250);
  EXPECT_EQ(observed, std::min<int64_t>(250, observed_tokens()));
  if (!on_device()) {
    EXPECT_EQ(third->kept_tokens(), observed <= 40 ? 249 : 250 - observed);
  }
}

// The same prompt once more in one sequence, of which a policy may remember what it saw; another in
// between is not taken for it.
TEST_P(EveryPolicy, APromptTwiceEqualsAFreshOne) {
  const auto tokens = random_tokens(290, 20), other = random_tokens(280, 21);
  EngineOptions dense_options = options();
  dense_options.policy = "full";
  Engine dense(dense_options), engine(options());
  const auto source = dense.new_sequence(), sequence = engine.new_sequence();
  dense.prefill(*source, std::span(tokens).first(250));
  const Logits fresh = run(options(), tokens, 250);
  expect_as_computed(run(engine, *sequence, tokens, 250, source.get()), fresh);
  expect_as_computed(run(engine, *sequence, tokens, 250, source.get()), fresh);
  EXPECT_EQ(run(engine, *sequence, tokens, 250), fresh);
  run(engine, *sequence, other, 250);
  EXPECT_EQ(run(engine, *sequence, tokens, 250), fresh);
  EXPECT_EQ(run(engine, *sequence, tokens, 240), run(options(), tokens, 240));
}

// From dense attention to the policy and back, after either has decoded on, across the end of a
// page.
TEST_P(EveryPolicy, AWholePromptOfAnotherPolicyEqualsAComputedOne) {
  const auto tokens = random_tokens(290, 18);
  EngineOptions dense_options = options();
  dense_options.policy = "full";
  Engine dense(dense_options), engine(options());
  const auto source = dense.new_sequence(), sequence = engine.new_sequence(),
             back = dense.new_sequence();
  const Logits dense_logits = run(dense, *source, tokens, 250);
  EXPECT_EQ(run(engine, *sequence, tokens, 250, source.get()), run(options(), tokens, 250));
  if (on_device()) {
    EXPECT_EQ(sequence->kept_tokens(), 250);
  }
  EXPECT_EQ(run(dense, *back, tokens, 250, sequence.get()), dense_logits);
  if (on_device()) {
    EXPECT_EQ(back->kept_tokens(), 250);
  }
}

// A prompt after another in the same sequence, with `common` first tokens in common and decode
// steps in between.
TEST_P(EveryPolicy, AContinuedPromptEqualsAFreshOne) {
  const auto first = random_tokens(240, 13), other = random_tokens(270, 14);
  Engine engine(options());
  const auto sequence = engine.new_sequence();
  for (const int64_t common : {7, 64, 133, 200}) {
    run(engine, *sequence, first, 200);
    std::vector<int32_t> second = other;
    std::copy_n(first.begin(), common, second.begin());
    SCOPED_TRACE(common);
    expect_as_computed(run(engine, *sequence, second, 230, sequence.get()),
                       run(options(), second, 230));
  }
  // Twice the same prompt, and a shorter one.
  for (const size_t prompt : {size_t{230}, size_t{230}, size_t{40}}) {
    const auto text = std::span(other).first(prompt + 10);
    expect_as_computed(run(engine, *sequence, text, prompt, sequence.get()),
                       run(options(), text, prompt));
  }
}

TEST_P(EveryPolicy, ACancelledPrefillGoesOnWhereItStopped) {
  const auto tokens = random_tokens(290, 15);
  Engine engine(options());
  const auto sequence = engine.new_sequence();
  const auto prompt = std::span(tokens).first(250);
  EXPECT_THROW(engine.prefill(*sequence, prompt, [](int64_t done) { return done < 128; }), Error);
  EXPECT_TRUE(sequence->logits().empty());
  std::vector<int64_t> progress;
  const auto note = [&](int64_t done) {
    progress.push_back(done);
    return true;
  };
  engine.prefill(*sequence, prompt, note, sequence.get());
  // A device keeps nothing of a prompt without an end. A policy that is shown the queries of all of
  // a prompt needs them computed again.
  if (on_device()) {
    EXPECT_EQ(progress.back(), 250);
  } else if (observed_tokens() >= static_cast<int64_t>(prompt.size())) {
    EXPECT_EQ(progress, (std::vector<int64_t>{64, 128, 192, 250}));
  } else {
    EXPECT_EQ(progress, (std::vector<int64_t>{192, 250}));
  }
  EXPECT_EQ(run(engine, *sequence, tokens, 250, sequence.get()), run(options(), tokens, 250));
}

TEST_P(EveryPolicy, WhatStaysIsNotComputedAgain) {
  const auto tokens = random_tokens(300, 16);
  Engine engine(options());
  const auto sequence = engine.new_sequence();
  run(engine, *sequence, tokens, 200);
  int64_t first = 0;
  const auto note = [&](int64_t done) {
    if (first == 0) first = done;
    return true;
  };
  engine.prefill(*sequence, tokens, note, sequence.get());
  // The prompt's tokens stay, the decoded ones do not; a policy that dropped KV begins anew.
  const int64_t kept = sequence->kept_tokens();
  if (on_device()) {
    EXPECT_EQ(kept, 192);  // whole pages of 16
    EXPECT_GT(first, kept);
    return;
  }
  EXPECT_EQ(first, kept + 64);
  const std::string& policy = GetParam().policy;
  if (policy == "full" || policy == "quest" || policy == "freekv") {
    EXPECT_EQ(kept, 200);
  } else if (policy == "streaming") {
    EXPECT_EQ(kept, 0);
  } else {
    EXPECT_LE(kept, 200);
  }
}

TEST_P(EveryPolicy, CountersKeepTheirRelations) {
  Engine engine(options());
  const auto sequence = engine.new_sequence();
  run(engine, *sequence, random_tokens(300, 10), 250);
  const RetrievalStats& stats = sequence->stats();
  EXPECT_EQ(stats.pages_selected, stats.hits + stats.misses_before + stats.misses_after);
  // K and V in two bytes
  const auto head_page =
      static_cast<uint64_t>(2 * options().page * shape_for(GetParam().backend).head_dim * 2);
  const uint64_t missed = (stats.misses_before + stats.misses_after) * head_page;
  EXPECT_LE(stats.bytes_recalled, missed);
  EXPECT_GE(stats.bytes_recalled,
            testing_support::rebuilds_keys(GetParam().policy) ? missed / 2 : missed);
  EXPECT_LE(stats.drifted(), stats.corrections_tested);
}

TEST_P(EveryPolicy, AFullSequenceTakesWhatWasSaidBefore) {
  Engine engine(options());
  const MemoryStats said = engine.memory_for(320);
  const auto sequence = engine.new_sequence(320);
  run(engine, *sequence, random_tokens(320, 17), 310);
  const MemoryStats held = sequence->memory();
  EXPECT_EQ(held.fast_kv_bytes, said.fast_kv_bytes);
  EXPECT_EQ(held.slow_kv_bytes, said.slow_kv_bytes);
  EXPECT_EQ(held.sketch_bytes, said.sketch_bytes);
}

TEST_P(EveryPolicy, AnOverlongPromptAndAFullContextAreRefused) {
  Engine engine(options());
  const auto sequence = engine.new_sequence(100);
  const auto tokens = random_tokens(101, 11);
  EXPECT_THROW(engine.prefill(*sequence, tokens), Error);
  EXPECT_THROW(engine.prefill(*sequence, {}), Error);
  engine.prefill(*sequence, std::span(tokens).first(100));
  Sequence* const batch[] = {sequence.get()};
  EXPECT_THROW(engine.decode(batch, std::span(tokens).first(1)), Error);
}

}  // namespace freekv
