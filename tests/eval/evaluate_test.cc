#include "eval/evaluate.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "../engine/tiny_model.hpp"
#include "eval/test_text.hpp"
#include "freekv/error.hpp"
#include "together.hpp"

namespace freekv::eval {
namespace {

class Evaluate : public testing::Test {
 protected:
  Evaluate() : options_(tiny_options(model_)), dense_(with("full", 96)) {
    evaluation_.answer_limit = 24;
  }

  EngineOptions with(const std::string& policy, int64_t budget) const {
    EngineOptions options = options_;
    options.policy = policy;
    options.budget = budget;
    options.threads = 1;
    return options;
  }
  std::unique_ptr<Suite> suite() const {
    SuiteOptions options;
    options.haystack = test_haystack();
    options.entries = 6;
    options.questions = 2;
    return std::move(make_suites("ledger", options).front());
  }
  std::vector<ResultRow> rows(const std::vector<Engine*>& methods) {
    const auto ledger = suite();
    const TokenCounter count = token_counter(dense_);
    const SampleRequest request{.seed = 1, .index = 2, .context = 480, .count = count};
    std::vector<ResultRow> result;
    evaluate_sample(
        dense_, methods, *ledger, request, evaluation_, [&](size_t method, const ResultRow& row) {
          EXPECT_EQ(method, result.size());
          EXPECT_EQ(row.key(),
                    row_identity(dense_, *methods[method], *ledger, request, evaluation_).key());
          result.push_back(row);
        });
    return result;
  }
  /// What generate() answers to the row's prompts, from the start and without sharing.
  std::vector<std::string> generated(Engine& engine) {
    const auto ledger = suite();
    const TokenCounter count = token_counter(dense_);
    const Sample sample = ledger->make({.seed = 1, .index = 2, .context = 480, .count = count});
    std::vector<std::string> texts;
    for (const Turn& turn : sample.turns) {
      const auto prompt = engine.encode(
          engine.chat_prompt(user_turn(sample.document + "\n\n" + turn.question)), true);
      const auto sequence = engine.new_sequence();
      const auto result = generate(engine, *sequence, {.prompt = prompt, .max_tokens = 24});
      texts.push_back(engine.decode(result.tokens));
    }
    return texts;
  }

  TemporaryModel model_;
  EngineOptions options_;
  Engine dense_;
  EvaluationOptions evaluation_;
};

TEST_F(Evaluate, AnswersAreThoseOfGenerate) {
  Engine freekv(with("freekv", 96)), quest(with("quest", 96)), wide(with("freekv", 512));
  const auto result = rows({&dense_, &freekv, &quest, &wide});
  ASSERT_EQ(result.size(), 4u);
  const std::vector<Engine*> engines = {&dense_, &freekv, &quest, &wide};
  for (size_t i = 0; i < engines.size(); ++i) {
    const auto expected = generated(*engines[i]);
    ASSERT_EQ(result[i].answers.size(), 2u);
    for (size_t t = 0; t < 2; ++t) EXPECT_EQ(result[i].answers[t][0], expected[t]) << i;
  }
}

TEST_F(Evaluate, ComparesWithDenseOnTheSameTokens) {
  Engine freekv(with("freekv", 96)), wide(with("freekv", 512)), again(with("full", 96));
  const auto result = rows({&again, &freekv, &wide});
  const Agreement& dense = result[0].agreement;
  EXPECT_GT(dense.compared, 20);
  EXPECT_EQ(dense.agreed, dense.compared);
  EXPECT_EQ(dense.kl_sum, 0);
  // A budget as wide as the context is dense attention.
  EXPECT_EQ(result[2].agreement.compared, dense.compared);
  EXPECT_EQ(result[2].agreement.agreed, dense.compared);
  EXPECT_NEAR(result[2].agreement.kl_sum, 0, 1e-9);
  EXPECT_EQ(result[2].answers, result[0].answers);
  // A fifth of the context is not, on random weights.
  EXPECT_EQ(result[1].agreement.compared, dense.compared);
  EXPECT_GT(result[1].agreement.kl_sum, 1e-4);
  EXPECT_GT(result[1].cost.stats.pages_selected, 0u);
  EXPECT_EQ(result[1].layers, 3);
  EXPECT_EQ(result[1].cost.stats.drifted_by_layer.size(), 3u);
}

TEST_F(Evaluate, KeepsNoMoreLogitsThanAllowed) {
  Engine freekv(with("freekv", 96));
  evaluation_.logit_bytes = 2 * 5 * 258 * sizeof(float);  // five steps of each of two turns
  const auto few = rows({&freekv});
  EXPECT_EQ(few[0].agreement.compared, 10);
  evaluation_.logit_bytes = size_t{1} << 30;
  EXPECT_EQ(few[0].answers, rows({&freekv})[0].answers);
}

TEST_F(Evaluate, GoesOnWhereTheDenseAnswerOnlySeemedToEnd) {
  const auto prompt = dense_.encode("a prompt of some length", false);
  const Question question{.prompt = prompt, .max_tokens = 24, .sampling = {}};
  DenseAnswer dense;
  const std::string text = answer_freely(dense_, question, &dense, size_t{1} << 20).text;
  ASSERT_GT(dense.tokens.size(), 8u);
  // The logits of the last steps were not kept, and the end stands where the model puts none.
  dense.tokens.resize(8);
  dense.ended = true;
  dense.logits.resize(static_cast<size_t>(3 * dense.vocab));
  Agreement agreement;
  EXPECT_EQ(answer_and_compare(dense_, question, dense, agreement).text, text);
  EXPECT_EQ(agreement.compared, 3);
  EXPECT_EQ(agreement.agreed, 3);
}

TEST_F(Evaluate, RepeatsDifferBySeedAndRepeatThemselves) {
  Engine freekv(with("freekv", 96));
  evaluation_.sampling.temperature = 1;
  evaluation_.repeats = 3;
  const auto first = rows({&freekv});
  ASSERT_EQ(first[0].answers[0].size(), 3u);
  EXPECT_NE(first[0].answers[0][0], first[0].answers[0][1]);
  EXPECT_EQ(first[0].answers, rows({&freekv})[0].answers);
  EXPECT_EQ(first[0].sampling, "temp=1");
}

TEST_F(Evaluate, SamplesTogetherGiveTheRowsOfOneAtATime) {
  expect_the_rows_of_one_at_a_time("cpu");
}

TEST_F(Evaluate, StopsWhenCancelled) {
  const std::atomic<bool> cancel{true};
  evaluation_.cancel = &cancel;
  try {
    rows({&dense_});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
}

TEST_F(Evaluate, IdentityNamesTheSettings) {
  Engine freekv(with("freekv:dense_layers=2", 96)), quest(with("quest", 96));
  const TokenCounter count = token_counter(dense_);
  const SampleRequest request{.seed = 1, .index = 0, .context = 480, .count = count};
  const auto ledger = suite();
  const ResultRow row = row_identity(dense_, freekv, *ledger, request, evaluation_);
  EXPECT_EQ(row.budget, 96);
  EXPECT_EQ(row.dense_layers, 2);
  EXPECT_EQ(row.format, "chat");
  EXPECT_EQ(row_identity(dense_, quest, *ledger, request, evaluation_).dense_layers, 2);
  EXPECT_EQ(row_identity(dense_, dense_, *ledger, request, evaluation_).budget, 0);
  EXPECT_EQ(row.backend, dense_.options().backend);
  EXPECT_EQ(row.model, "tiny");
  EngineOptions longer = with("freekv:dense_layers=2", 96);
  longer.rope = {.scaling = "yarn", .scale = 4, .yarn_orig_ctx = 2048};
  Engine stretched(longer);
  const ResultRow other_rope = row_identity(dense_, stretched, *ledger, request, evaluation_);
  EXPECT_EQ(other_rope.model, "tiny rope_scaling=yarn,rope_scale=4,yarn_orig_ctx=2048");
  EXPECT_NE(other_rope.key(), row.key());
  EngineOptions elsewhere = with("freekv", 96);
  elsewhere.backend = dense_.options().backend == "cpu" ? "reference" : "cpu";
  Engine other(elsewhere);
  EXPECT_EQ(row_identity(dense_, other, *ledger, request, evaluation_).backend,
            dense_.options().backend + "+" + elsewhere.backend);
}

}  // namespace
}  // namespace freekv::eval
