// The policy "auto": by sizes alone, and always with a reason.
#include "engine/choose_policy.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace freekv {
namespace {

ModelConfig small_model() {
  ModelConfig config;
  config.layers = 2;
  config.query_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 64;
  config.context_length = 1 << 20;
  return config;
}

EngineOptions options_of(int64_t context, const std::string& policy = "auto") {
  EngineOptions options;
  options.policy = policy;
  options.context = context;
  options.budget = 2048;
  return options;
}

// 2 layers of 2 heads of 64, K and V in 2 bytes.
constexpr size_t kTokenBytes = 2 * 2 * 64 * 2 * 2;

TEST(ChoosePolicy, IsAutoOnlyByThatName) {
  EXPECT_TRUE(is_auto_policy("auto"));
  EXPECT_TRUE(is_auto_policy("auto:tau=0.9"));
  for (const char* name : {"full", "automatic", "freekv:tau=1", ""}) {
    EXPECT_FALSE(is_auto_policy(name)) << name;
  }
}

TEST(ChoosePolicy, ShortContextsThatFitAreDense) {
  const PolicyChoice choice = choose_policy(options_of(4096), small_model(), 4096 * kTokenBytes);
  EXPECT_EQ(choice.policy, "full");
  EXPECT_THAT(choice.note, testing::StartsWith("full, since"));
}

TEST(ChoosePolicy, WhatDoesNotFitIsRetrievedAndBothByteCountsAreSaid) {
  const PolicyChoice choice =
      choose_policy(options_of(4096, "auto:tau=0.9"), small_model(), 4096 * kTokenBytes - 1);
  EXPECT_EQ(choice.policy, "freekv:tau=0.9");
  EXPECT_THAT(choice.note, testing::HasSubstr(std::to_string(4096 * kTokenBytes)));
  EXPECT_THAT(choice.note, testing::HasSubstr(std::to_string(4096 * kTokenBytes - 1)));
  EngineOptions batch = options_of(4096);
  batch.max_batch = 2;
  EXPECT_EQ(choose_policy(batch, small_model(), 4096 * kTokenBytes).policy, "freekv");
}

TEST(ChoosePolicy, LongContextsAreRetrievedAndADeviceTakesThemLater) {
  EngineOptions options = options_of(16384);
  EXPECT_EQ(choose_policy(options, small_model(), SIZE_MAX).policy, "freekv");
  options.backend = "cuda";
  EXPECT_EQ(choose_policy(options, small_model(), SIZE_MAX).policy, "full");
  options.context = 1 << 20;
  EXPECT_EQ(choose_policy(options, small_model(), SIZE_MAX).policy, "freekv");
}

}  // namespace
}  // namespace freekv
