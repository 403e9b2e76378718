#include "policies/head_profile.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "freekv/error.hpp"
#include "policies/policy.hpp"

namespace freekv {
namespace {

HeadProfile small_profile() {
  HeadProfile profile;
  profile.model = "a \"small\" one";
  profile.layers = 2;
  profile.query_heads = 4;
  profile.kv_heads = 2;
  profile.echo = {0.1f, 0.2f, 0, 0.5f, 0.25f, 0, 0, 0};
  profile.induction = {0, 0.125f, 0.5f, 0, 0.25f, 0.75f, 0, 1};
  return profile;
}

std::string message_of(const std::string& json) {
  try {
    parse_head_profile("heads.json", json);
  } catch (const Error& error) {
    EXPECT_EQ(error.message().find('\n'), std::string::npos);
    return error.message();
  }
  return "";
}

std::string replaced(std::string text, const std::string& old, const std::string& with) {
  const size_t at = text.find(old);
  EXPECT_NE(at, std::string::npos) << old;
  return text.replace(at, old.size(), with);
}

TEST(HeadProfile, ReadsWhatItWrites) {
  const HeadProfile profile = small_profile();
  const HeadProfile read = parse_head_profile("heads.json", format_head_profile(profile));
  EXPECT_EQ(read.model, profile.model);
  EXPECT_EQ(read.layers, profile.layers);
  EXPECT_EQ(read.query_heads, profile.query_heads);
  EXPECT_EQ(read.kv_heads, profile.kv_heads);
  EXPECT_EQ(read.echo, profile.echo);
  EXPECT_EQ(read.induction, profile.induction);
}

TEST(HeadProfile, NamesWhatIsWrong) {
  const std::string good = format_head_profile(small_profile());
  EXPECT_EQ(message_of(""), "heads.json: is no JSON object");
  EXPECT_EQ(message_of("[1]"), "heads.json: is no JSON object");
  EXPECT_EQ(message_of(replaced(good, "\"echo\"", "\"ecco\"")), "heads.json: echo is missing");
  EXPECT_EQ(message_of(replaced(good, "\"layers\": 2", "\"layers\": -2")),
            "heads.json: layers is -2, must be a whole number from 1 to 4096");
  EXPECT_EQ(message_of(replaced(good, "\"layers\": 2", "\"layers\": 3")),
            "heads.json: echo has 2 rows, must have one for each of 3 layers");
  EXPECT_EQ(message_of(replaced(good, "\"kv_heads\": 2", "\"kv_heads\": 3")),
            "heads.json: query_heads is 4, must be a multiple of kv_heads = 3");
  EXPECT_EQ(message_of(replaced(good, "0.1000, ", "")),
            "heads.json: echo of layer 0 has 3 scores, must have one for each of 4 heads");
  EXPECT_EQ(message_of(replaced(good, "0.7500", "1.7500")),
            "heads.json: induction has the score 1.75, must be a number from 0 to 1");
  EXPECT_NE(message_of(replaced(good, "0.7500", "null")), "");
}

// Whatever bytes come in, one line comes out or a profile whose sizes fit.
TEST(HeadProfile, SurvivesDamagedFiles) {
  const std::string good = format_head_profile(small_profile());
  std::mt19937 random(3);
  for (int i = 0; i < 3000; ++i) {
    std::string text = good;
    for (int edits = 1 + static_cast<int>(random() % 4); edits > 0; --edits) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 9);
          break;
        default:
          std::rotate(text.begin(), text.begin() + static_cast<ptrdiff_t>(at), text.end());
      }
      if (text.empty()) text.push_back(' ');
    }
    try {
      const HeadProfile profile = parse_head_profile("heads.json", text);
      ASSERT_EQ(profile.echo.size(), static_cast<size_t>(profile.layers * profile.query_heads));
    } catch (const Error& error) {
      ASSERT_EQ(error.message().find('\n'), std::string::npos) << error.message();
    }
  }
}

TEST(RetrievalHeads, AreTheBestOfEitherScore) {
  const HeadProfile profile = small_profile();
  // Best of group: echo 0.2 0.5 | 0.25 0, induction 0.125 0.5 | 0.75 1.
  EXPECT_EQ(retrieval_heads(profile, 0, 0), (std::vector<uint8_t>{0, 0, 0, 0}));
  EXPECT_EQ(retrieval_heads(profile, 0.14, 0), (std::vector<uint8_t>{0, 0, 0, 1}));
  EXPECT_EQ(retrieval_heads(profile, 0.14, 0.01), (std::vector<uint8_t>{0, 1, 0, 1}));
  EXPECT_EQ(retrieval_heads(profile, 0.5, 0), (std::vector<uint8_t>{0, 0, 1, 1}));
  EXPECT_EQ(retrieval_heads(profile, 0, 0.75), (std::vector<uint8_t>{1, 1, 1, 0}));
  EXPECT_EQ(retrieval_heads(profile, 1, 0), (std::vector<uint8_t>{1, 1, 1, 1}));
}

TEST(Razor, RefusesTheProfileOfAnotherModel) {
  CacheConfig config;
  config.layers = 3;
  config.query_heads = 4;
  config.shape = {2, 16, 16, DType::kF16};
  config.max_context = 4096;
  try {
    make_policy("razor")->plan(config);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.message(),
              "profile is of \"FreeKV demo\" with 6 layers of 8/2 heads, the model has 3 of 4/2; "
              "freekv profile-heads measures one");
  }
  EXPECT_THROW(make_policy("razor:profile=no/such/file.json"), Error);
}

}  // namespace
}  // namespace freekv
