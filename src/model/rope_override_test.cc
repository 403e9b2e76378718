// Rope options give what a file that declares the same gives; what does not fit is refused.
#include "model/rope_override.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "freekv/error.hpp"
#include "io/gguf.hpp"
#include "io/gguf_test_file.hpp"
#include "model/rope.hpp"

namespace freekv {
namespace {

using testing::ElementsAreArray;

constexpr uint32_t kContext = 32768;

struct Declared {
  std::string type = {};  // empty: no scaling
  float factor = 1;
  uint32_t original = kContext;
  float attention = 1;  // on top of what the factor implies
};

/// The configuration of a qwen2 file of 32,768 tokens that declares this scaling.
ModelConfig config_of(const Declared& declared = {}) {
  GgufTestFile file;
  file.text("general.architecture", "qwen2");
  file.scalar("qwen2.context_length", kContext)
      .scalar("qwen2.embedding_length", uint32_t{128})
      .scalar("qwen2.block_count", uint32_t{1})
      .scalar("qwen2.feed_forward_length", uint32_t{8})
      .scalar("qwen2.attention.head_count", uint32_t{1})
      .scalar("qwen2.rope.freq_base", 1e6f);
  if (!declared.type.empty()) {
    file.text("qwen2.rope.scaling.type", declared.type)
        .scalar("qwen2.rope.scaling.factor", declared.factor)
        .scalar("qwen2.rope.scaling.original_context_length", declared.original)
        .scalar("qwen2.rope.scaling.yarn_beta_fast", 24.0f)
        .scalar("qwen2.rope.scaling.attn_factor", declared.attention);
  }
  file.tensor("token_embd.weight", {128, 2}, 0, std::string(1024, '\0'));
  const std::string bytes = file.bytes();
  return read_config(Gguf::parse(std::as_bytes(std::span(bytes)), "test.gguf").value());
}

void expect_equal(const ModelConfig& config, const ModelConfig& expected) {
  EXPECT_EQ(config.context_length, expected.context_length);
  EXPECT_FLOAT_EQ(config.rope.attention_factor, expected.rope.attention_factor);
  const RopeFrequencies made(config, {}), wanted(expected, {});
  EXPECT_THAT(made.values(), ElementsAreArray(wanted.values()));
}

std::string refusal(const RopeOptions& options, const Declared& declared = {}) {
  try {
    override_rope(config_of(declared), options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "taken";
}

TEST(RopeOverride, NothingGivenChangesNothing) {
  for (const char* type : {"", "linear", "yarn"}) {
    const ModelConfig file = config_of({.type = type, .factor = 4, .attention = 1.5f});
    expect_equal(override_rope(file, {}), file);
  }
}

TEST(RopeOverride, IsWhatAFileDeclares) {
  ModelConfig plain = config_of();
  plain.rope.beta_fast = 24;  // read from files that declare yarn only
  const ModelConfig yarn = config_of({.type = "yarn", .factor = 4});
  EXPECT_EQ(yarn.context_length, 131072);
  expect_equal(override_rope(plain, {.scaling = "yarn", .scale = 4}), yarn);
  expect_equal(override_rope(plain, {.scaling = "yarn", .scale = 8, .yarn_orig_ctx = 8192}),
               config_of({.type = "yarn", .factor = 8, .original = 8192}));
  expect_equal(override_rope(plain, {.scaling = "linear", .scale = 2.5f}),
               config_of({.type = "linear", .factor = 2.5f}));
}

TEST(RopeOverride, ChangesWhatAFileDeclares) {
  const Declared yarn{.type = "yarn", .factor = 4, .attention = 1.5f};
  expect_equal(override_rope(config_of(yarn), {.scaling = "yarn"}), config_of(yarn));
  expect_equal(override_rope(config_of(yarn), {.scale = 2}),
               config_of({.type = "yarn", .factor = 2, .attention = 1.5f}));
  expect_equal(override_rope(config_of(yarn), {.yarn_orig_ctx = 16384}),
               config_of({.type = "yarn", .factor = 4, .original = 16384, .attention = 1.5f}));
  expect_equal(override_rope(config_of(yarn), {.scaling = "linear"}),
               config_of({.type = "linear", .factor = 4}));
  ModelConfig linear = config_of({.type = "linear", .factor = 8});
  linear.rope.beta_fast = 24;
  expect_equal(override_rope(linear, {.scaling = "yarn", .scale = 4}),
               config_of({.type = "yarn", .factor = 4}));
}

TEST(RopeOverride, NoneUndoes) {
  for (const char* type : {"linear", "dynamic", "yarn"}) {
    const ModelConfig none =
        override_rope(config_of({.type = type, .factor = 4, .attention = 2}), {.scaling = "none"});
    EXPECT_EQ(none.rope.scaling, RopeScaling::kNone) << type;
    EXPECT_EQ(none.rope.factor, 1) << type;
    expect_equal(none, config_of());
  }
}

TEST(RopeOverride, ReplacesTheBase) {
  const ModelConfig file = config_of({.type = "yarn", .factor = 4, .attention = 1.5f});
  ModelConfig other = file;
  other.rope.base = 5e5f;
  expect_equal(override_rope(file, {.freq_base = 5e5f}), other);
}

TEST(RopeOverride, RefusesWhatDoesNotFit) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(refusal({.scaling = "ntk"}), "rope scaling is \"ntk\", must be none, linear or yarn");
  EXPECT_EQ(refusal({.scaling = "dynamic", .scale = 2}),
            "rope scaling is \"dynamic\", must be none, linear or yarn");
  for (const float scale : {kNan, kInfinity, -4.0f, 0.5f}) {
    EXPECT_EQ(refusal({.scaling = "yarn", .scale = scale}),
              fmt::format("rope scale is {}, must be 1 or more and finite", scale));
  }
  for (const float base : {kNan, kInfinity, -1.0f}) {
    EXPECT_EQ(refusal({.freq_base = base}),
              fmt::format("rope freq base is {}, must be above 0 and finite", base));
  }
  for (const int64_t context : {int64_t{-1}, INT64_MAX}) {
    EXPECT_EQ(refusal({.scaling = "yarn", .scale = 4, .yarn_orig_ctx = context}),
              fmt::format("yarn orig ctx is {}, must be 1 to 16777216", context));
  }
  EXPECT_EQ(refusal({.scaling = "yarn", .scale = 4, .freq_base = 1}),
            "rope freq base is 1, must be above 1 for the rope scaling yarn");
}

TEST(RopeOverride, RefusesWhatTheScalingDoesNotTake) {
  const std::string needs = "rope scale is 4, needs the rope scaling linear or yarn, which is ";
  EXPECT_EQ(refusal({.scale = 4}), needs + "none");
  EXPECT_EQ(refusal({.scaling = "none", .scale = 4}, {.type = "yarn", .factor = 2}),
            needs + "none");
  EXPECT_EQ(refusal({.scale = 4}, {.type = "dynamic", .factor = 2}), needs + "dynamic");
  EXPECT_EQ(refusal({.scaling = "linear", .scale = 4, .yarn_orig_ctx = 4096}),
            "yarn orig ctx is 4096, needs the rope scaling yarn, which is linear");
  EXPECT_EQ(refusal({.yarn_orig_ctx = 4096}),
            "yarn orig ctx is 4096, needs the rope scaling yarn, which is none");
  EXPECT_EQ(refusal({.scaling = "yarn"}),
            "rope scaling is yarn, needs a rope scale, of which the model has none");
}

}  // namespace
}  // namespace freekv
