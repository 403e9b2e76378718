#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "freekv/error.hpp"
#include "policies/policy.hpp"

namespace freekv {
namespace {

std::string message_of(const std::string& specification) {
  try {
    make_policy(specification);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.message();
  }
  return "";
}

TEST(PolicyTable, HasEveryMethodInOrder) {
  std::string names;
  for (const PolicyDescriptor& policy : policy_table()) {
    names += policy.name + " ";
    EXPECT_FALSE(policy.summary.empty()) << policy.name;
    EXPECT_TRUE(std::is_sorted(policy_table().begin(), policy_table().end(),
                               [](const auto& a, const auto& b) { return a.name < b.name; }));
    // Defaults are values a user could give.
    std::string all = policy.name;
    for (const PolicyKey& key : policy.keys) {
      all += (all == policy.name ? ":" : ",") + key.name + "=" + key.default_value;
      EXPECT_FALSE(key.help.empty()) << policy.name << " " << key.name;
    }
    EXPECT_NE(make_policy(all), nullptr) << all;
    EXPECT_NE(make_policy(policy.name), nullptr);
  }
  for (const char* name : {"arkvale ", "freekv ", "full ", "h2o ", "infinigen ", "quest ", "raas ",
                           "razor ", "shadowkv ", "snapkv ", "streaming "}) {
    EXPECT_NE(names.find(name), std::string::npos) << name;
  }
}

TEST(MakePolicy, NamesWhatItDoesNotKnow) {
  EXPECT_NE(message_of("h3o").find("policy is 'h3o', must be one of "), std::string::npos);
  EXPECT_NE(message_of("").find("freekv, freekv-coverage, full"), std::string::npos);
  EXPECT_EQ(message_of("freekv:alpha=1"),
            "policy freekv: key 'alpha' is unknown, must be one of tau, sketch, pooling, "
            "dense_layers, resident, recall");
  EXPECT_EQ(message_of("full:tau=1"), "policy full: key 'tau' is unknown, the policy has no keys");
  EXPECT_EQ(message_of("freekv:tau"), "policy freekv: 'tau' is not key=value");
  EXPECT_EQ(message_of("freekv:"), "policy freekv: '' is not key=value");
  EXPECT_EQ(message_of("freekv:tau=1,"), "policy freekv: '' is not key=value");
  EXPECT_EQ(message_of("freekv:tau=1,tau=1"), "policy freekv: key 'tau' is given twice");
}

TEST(MakePolicy, ChecksValues) {
  for (const char* bad : {"", "x", "0.8x", " 0.8", "nan", "3", "-3", "1e99", "0,8"}) {
    EXPECT_FALSE(message_of(std::string("freekv:tau=") + bad).empty()) << bad;
  }
  EXPECT_EQ(message_of("freekv:tau=hot"), "tau is 'hot', must be a number from -2 to 2");
  EXPECT_EQ(message_of("freekv:dense_layers=-1"),
            "dense_layers is '-1', must be a whole number from 0 to 1024");
  EXPECT_EQ(message_of("quest:sketch=box"),
            "sketch is 'box', must be one of cuboid, key2, key2+values, landmark, mean, minmax, "
            "minmax+key2");
  EXPECT_EQ(message_of("freekv-coverage:sketch=mean"),
            "sketch is 'mean', must estimate attention mass: key2, key2+values, minmax+key2");
  EXPECT_EQ(message_of("freekv-coverage:epsilon=-0.1"),
            "epsilon is '-0.1', must be a number from 0 to 1");
  EXPECT_EQ(message_of("freekv:recall=disk"), "recall is 'disk', must be one of gather, streamed");
  EXPECT_FALSE(message_of("freekv:resident=0.99").empty());
  EXPECT_EQ(message_of("freekv:tau=0.9,sketch=cuboid,pooling=max_score,resident=2.5"), "");
}

// Whoever keeps a budget says both values when it cannot be kept.
TEST(Plan, RefusesABudgetBelowSinkWindowAndAPage) {
  CacheConfig config;
  config.layers = 2;
  config.query_heads = 4;
  config.shape = {2, 16, 32, DType::kF16};
  config.max_context = 4096;
  config.tokens = {100, 64, 64};
  int refused = 0;
  for (const PolicyDescriptor& descriptor : policy_table()) {
    const auto policy = make_policy(descriptor.name);
    try {
      policy->plan(config);
    } catch (const Error& error) {
      ++refused;
      EXPECT_EQ(error.message(), "budget is 100, must be at least sink + window + one page = 160");
    }
  }
  EXPECT_GE(refused, 3);
}

}  // namespace
}  // namespace freekv
