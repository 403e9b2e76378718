#include "engine/sampler.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "freekv/error.hpp"

namespace freekv {
namespace {

std::map<int32_t, int> draw(const SamplingOptions& options, const std::vector<float>& logits,
                            int times) {
  Sampler sampler(options, static_cast<int64_t>(logits.size()));
  std::map<int32_t, int> counts;
  for (int i = 0; i < times; ++i) ++counts[sampler.sample(logits)];
  return counts;
}

TEST(Sampler, GreedyTakesTheLowestIdOfEqualLogitsAndSkipsNaN) {
  Sampler sampler({}, 4);
  EXPECT_EQ(sampler.sample(std::vector<float>{NAN, 2, 5, 5}), 2);
}

TEST(Sampler, TemperatureDrawsTheSoftmax) {
  const std::vector<float> logits = {0, std::log(2.0f), std::log(5.0f)};
  const auto counts = draw({.temperature = 1, .seed = 3}, logits, 20000);
  EXPECT_NEAR(counts.at(0) / 20000.0, 1 / 8.0, 0.01);
  EXPECT_NEAR(counts.at(1) / 20000.0, 2 / 8.0, 0.015);
  EXPECT_NEAR(counts.at(2) / 20000.0, 5 / 8.0, 0.015);
}

TEST(Sampler, TopKTopPAndMinPCutTheTail) {
  const std::vector<float> logits = {0, std::log(2.0f), std::log(5.0f), std::log(0.1f)};
  EXPECT_EQ(draw({.temperature = 1, .top_k = 2}, logits, 500).size(), 2u);
  // 5 / 8.1 = 0.62 < 0.7, 7 / 8.1 = 0.86 >= 0.7: two tokens make up the nucleus.
  EXPECT_EQ(draw({.temperature = 1, .top_p = 0.7f}, logits, 500).size(), 2u);
  EXPECT_EQ(draw({.temperature = 1, .top_p = 0.6f}, logits, 500).size(), 1u);
  // 0.3 of the best weight, 5, is 1.5: 2 stays and 1 goes.
  EXPECT_EQ(draw({.temperature = 1, .min_p = 0.3f}, logits, 500).size(), 2u);
}

TEST(Sampler, RepetitionPenaltyPushesBothSignsDown) {
  SamplingOptions options{.repetition_penalty = 2};
  Sampler sampler(options, 3);
  sampler.accept(0);
  EXPECT_EQ(sampler.sample(std::vector<float>{3, 2, -1}), 1);
  Sampler negative(options, 2);
  negative.accept(0);
  EXPECT_EQ(negative.sample(std::vector<float>{-1, -1.5f}), 1);
}

TEST(Sampler, PenaltyForgetsBeyondItsWindow) {
  Sampler sampler({.repetition_penalty = 2, .repetition_window = 2}, 4);
  for (int32_t token : {0, 1, 2}) sampler.accept(token);
  EXPECT_EQ(sampler.sample(std::vector<float>{3, 3.5f, 3.4f, 1}), 0);
}

TEST(Sampler, SameSeedSameTokens) {
  const std::vector<float> logits = {0.1f, 0.2f, 0.3f, 0.4f};
  SamplingOptions options{.temperature = 1, .seed = 42};
  Sampler a(options, 4), b(options, 4);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.sample(logits), b.sample(logits));
}

TEST(Sampler, RejectsOptionsOutsideTheirRange) {
  EXPECT_THROW(Sampler({.temperature = -1}, 4), Error);
  EXPECT_THROW(Sampler({.temperature = NAN}, 4), Error);
  EXPECT_THROW(Sampler({.top_p = 0}, 4), Error);
  EXPECT_THROW(Sampler({.min_p = 2}, 4), Error);
  EXPECT_THROW(Sampler({.repetition_penalty = 0}, 4), Error);
  Sampler sampler({}, 2);
  EXPECT_THROW(sampler.sample(std::vector<float>{NAN, NAN}), Error);
}

}  // namespace
}  // namespace freekv
