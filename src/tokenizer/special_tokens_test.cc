#include "tokenizer/special_tokens.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "freekv/error.hpp"

namespace freekv {
namespace {

using testing::ElementsAre;

class SpecialTokensTest : public testing::Test {
 protected:
  // Ordinary text in brackets, tokens by id.
  std::vector<std::string> split(std::string_view text) {
    std::vector<std::string> parts;
    specials_.split(
        vocabulary_, text,
        [&](std::string_view part) { parts.push_back(fmt::format("[{}]", part)); },
        [&](int32_t token) { parts.push_back(std::to_string(token)); });
    return parts;
  }

  static constexpr auto kControl = TokenType::kControl;
  const std::vector<TokenType> types_ = {TokenType::kNormal,      kControl, kControl,
                                         TokenType::kUserDefined, kControl, kControl};
  Vocabulary vocabulary_{{"<s>", "<a>", "<a>b", "<a>bcd", "\xc3\xa9", "<a>"}, types_};
  SpecialTokens specials_{vocabulary_};
};

TEST_F(SpecialTokensTest, LongestAtTheLeftmostPlace) {
  EXPECT_EQ(specials_.size(), 4u);  // the normal token is none, one is there twice
  EXPECT_THAT(split(""), ElementsAre());
  EXPECT_THAT(split("text <s>"), ElementsAre("[text <s>]"));
  EXPECT_THAT(split("x<a>"), ElementsAre("[x]", "1"));
  EXPECT_THAT(split("<a><a>bz<a>bc"), ElementsAre("1", "2", "[z]", "2", "[c]"));
  EXPECT_THAT(split("<a>bcd<a"), ElementsAre("3", "[<a]"));
  EXPECT_THAT(split("<<a>b"), ElementsAre("[<]", "2"));
  EXPECT_THAT(split("1\xc3\xa9\xc3"), ElementsAre("[1]", "4", "[\xc3]"));
}

TEST_F(SpecialTokensTest, FindsTheLowestIdOfEqualTokens) {
  EXPECT_EQ(specials_.longest_at(vocabulary_, "<a>"), 1);
  EXPECT_EQ(specials_.longest_at(vocabulary_, "<s>"), kNoToken);
}

TEST(SpecialTokens, RefusesVeryLongOnes) {
  const std::string longest(SpecialTokens::kMaxBytes, 'x');
  const std::string longer = longest + "x";
  const std::vector<TokenType> types = {TokenType::kControl};
  EXPECT_EQ(SpecialTokens(Vocabulary({longest}, types)).size(), 1u);
  try {
    const SpecialTokens tokens(Vocabulary({longer}, types));
    ADD_FAILURE() << "accepted " << longer.size() << " bytes";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kParse);
    EXPECT_THAT(error.message(), testing::HasSubstr("has 257 bytes, at most 256"));
  }
}

TEST(SpecialTokens, NearMissesTakeLinearTime) {
  // Each place of the text agrees with both tokens for 255 bytes.
  const std::string prefix(SpecialTokens::kMaxBytes - 1, 'a');
  const std::string one = prefix + "b";
  const std::string two = prefix + "c";
  const std::vector<TokenType> types = {TokenType::kControl, TokenType::kControl};
  const Vocabulary vocabulary({one, two}, types);
  const SpecialTokens specials(vocabulary);
  const std::string text(200'000, 'a');
  size_t bytes = 0;
  const auto start = std::chrono::steady_clock::now();
  specials.split(
      vocabulary, text, [&](std::string_view part) { bytes += part.size(); },
      [&](int32_t) { ADD_FAILURE(); });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(bytes, text.size());
  EXPECT_LT(seconds.count(), 30);
}

}  // namespace
}  // namespace freekv
