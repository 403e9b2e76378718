#include "backends/cuda/host_recall.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "backends/cuda/decoder.hpp"
#include "backends/cuda/decoder_cases.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

using cases::TinyModel;

constexpr int kSteps = 40;
constexpr int64_t kContext = 448;

// Two sequences past the budget, one that comes to it on the way (112 tokens).
const std::vector<int64_t> kLengths = {333, 90, 200};

struct Trial {
  std::vector<std::vector<uint32_t>> logits;  // of each step
  RowCounters counters;                       // of all sequences
};

// Tokens that change every step, every second and every third: queries of tokens that repeat stay
// close, others do not.
int32_t token_of(int step, int32_t sequence) {
  return (step / (1 + sequence) * 37 + sequence) % 256;
}

void add(RowCounters& sum, const RowCounters& more) {
  sum.selections += more.selections;
  sum.pages_selected += more.pages_selected;
  sum.misses_before += more.misses_before;
  sum.misses_after += more.misses_after;
  sum.tested += more.tested;
  sum.drifted += more.drifted;
}

// In batches whose order is not that of the sequences; the last steps leave one out.
Trial play(const TinyModel& model, const RetrievalRule& rule) {
  Decoder decoder(model.shape(), model.weights(), rule, model.map(), {3, kContext, 2});
  for (const int64_t tokens : kLengths) {
    cases::fill_sequence(decoder, model, decoder.open(kContext), tokens);
  }
  Trial result;
  for (int step = 0; step < kSteps; ++step) {
    std::vector<int32_t> batch = {2, 0, 1}, ids;
    if (step >= kSteps - 8) batch = {0, 2};
    for (const int32_t sequence : batch) ids.push_back(token_of(step, sequence));
    decoder.step(batch, ids);
    result.logits.push_back(cases::logit_bits(decoder, batch.size(), model.shape().vocab));
  }
  for (int32_t sequence = 0; sequence < 3; ++sequence) {
    add(result.counters, decoder.counters(sequence));
  }
  return result;
}

RetrievalRule freekv_rule() {
  return {.budgeted = true, .slow = true, .selects = true, .speculative = true, .tau = 0.1f};
}

RetrievalRule with(RetrievalRule rule, Mechanism mechanism, HostLayout layout, int32_t buffers) {
  rule.mechanism = mechanism;
  rule.host_layout = layout;
  rule.staging_buffers = buffers;
  return rule;
}

struct Named {
  std::string name;
  RetrievalRule rule;
};

std::vector<Named> others(const RetrievalRule& rule) {
  RetrievalRule no_graph = rule;
  no_graph.use_graph = false;
  return {{"gather without a graph", no_graph},
          {"streamed, two buffers", with(rule, Mechanism::kStreamed, HostLayout::kHeadMajor, 2)},
          {"streamed, one buffer", with(rule, Mechanism::kStreamed, HostLayout::kHeadMajor, 1)},
          {"per page, head-major", with(rule, Mechanism::kPerPage, HostLayout::kHeadMajor, 2)},
          {"per page, token-major", with(rule, Mechanism::kPerPage, HostLayout::kTokenMajor, 2)}};
}

void expect_same(const Trial& trial, const Trial& expected) {
  ASSERT_EQ(trial.logits.size(), expected.logits.size());
  for (size_t step = 0; step < trial.logits.size(); ++step) {
    ASSERT_EQ(trial.logits[step], expected.logits[step]) << "step " << step;
  }
  EXPECT_EQ(trial.counters.selections, expected.counters.selections);
  EXPECT_EQ(trial.counters.misses_before, expected.counters.misses_before);
  EXPECT_EQ(trial.counters.misses_after, expected.counters.misses_after);
}

// A difference that attention cannot see would show nothing.
void expect_meaningful(const Trial& trial) {
  for (const auto& step : trial.logits) {
    for (const uint32_t bits : step) ASSERT_TRUE(std::isfinite(std::bit_cast<float>(bits)));
  }
  EXPECT_GT(trial.counters.misses_before, 10u);
}

TEST(RecallMechanisms, GiveTheSameLogits) {
  const TinyModel model;
  const Trial expected = play(model, freekv_rule());
  expect_meaningful(expected);
  EXPECT_GT(expected.counters.misses_after, 10u);
  EXPECT_GT(expected.counters.drifted, 10u);
  EXPECT_LT(expected.counters.drifted, expected.counters.tested - 10);
  for (const auto& [name, rule] : others(freekv_rule())) {
    SCOPED_TRACE(name);
    expect_same(play(model, rule), expected);
  }
}

// Whole selections in flight at once, before attention and behind it.
TEST(RecallMechanisms, GiveTheSameLogitsWhenMostPagesAreReplaced) {
  const TinyModel model;
  RetrievalRule rule = freekv_rule();
  rule.forced_drift = 0.3f;
  rule.forced_churn = 0.9f;
  const Trial expected = play(model, rule);
  expect_meaningful(expected);
  for (const auto& [name, other] : others(rule)) {
    SCOPED_TRACE(name);
    expect_same(play(model, other), expected);
  }
}

TEST(RecallMechanisms, GiveTheSameLogitsWhenAllHeadsWait) {
  const TinyModel model;
  RetrievalRule always = freekv_rule(), blocking = freekv_rule();
  always.tau = 2;
  blocking.speculative = false;
  const Trial expected = play(model, always);
  expect_meaningful(expected);
  EXPECT_EQ(expected.counters.misses_after, 0u);
  const Trial blocked = play(model, blocking);
  ASSERT_EQ(blocked.logits, expected.logits);
  for (const auto& [name, rule] : others(blocking)) {
    SCOPED_TRACE(name);
    expect_same(play(model, rule), blocked);
  }
}

// What a sequence recalled last must not reach the one that takes its memory.
TEST(RecallMechanisms, LeaveNothingUnderWayWhenASequenceGoes) {
  const TinyModel model;
  RetrievalRule rule = freekv_rule();
  rule.forced_drift = 0;
  rule.forced_churn = 1;
  for (const auto& [name, other] : others(rule)) {
    SCOPED_TRACE(name);
    Decoder decoder(model.shape(), model.weights(), other, model.map(), {1, kContext, 2});
    std::vector<std::vector<uint32_t>> logits[2];
    for (auto& seen : logits) {
      const int32_t sequence = decoder.open(kContext);
      cases::fill_sequence(decoder, model, sequence, 300);
      for (int step = 0; step < 5; ++step) {
        decoder.step({{sequence}}, {{token_of(step, 0)}});
        seen.push_back(cases::logit_bits(decoder, 1, model.shape().vocab));
      }
      decoder.step({{sequence}}, {{1}});
      decoder.close(sequence);
    }
    EXPECT_EQ(logits[0], logits[1]);
  }
}

TEST(RecallMechanisms, RefuseWhatTheyAreNotBuiltFor) {
  const TinyModel model;
  const auto message_of = [&](Mechanism mechanism, HostLayout layout, int32_t buffers) {
    try {
      const RetrievalRule rule = with(freekv_rule(), mechanism, layout, buffers);
      Decoder decoder(model.shape(), model.weights(), rule, model.map(), {1, kContext, 2});
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return error.message();
    }
    return std::string();
  };
  EXPECT_THAT(message_of(Mechanism::kGather, HostLayout::kTokenMajor, 2),
              testing::HasSubstr("gather"));
  EXPECT_THAT(message_of(Mechanism::kStreamed, HostLayout::kTokenMajor, 2),
              testing::HasSubstr("streamed"));
  EXPECT_THAT(message_of(Mechanism::kStreamed, HostLayout::kHeadMajor, 3),
              testing::HasSubstr("staging_buffers is 3"));
}

}  // namespace
}  // namespace freekv::cuda
