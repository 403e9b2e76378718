#include "tokenizer/special_tokens.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <string>

#include "freekv/error.hpp"

namespace freekv {
namespace {

// Of the processor: other programs on the machine do not count.
double cpu_seconds_since(std::clock_t start) {
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

using testing::ElementsAre;

// Ordinary text in brackets, tokens by id.
std::vector<std::string> split(const SpecialTokens& specials, std::string_view text,
                               bool controls = true) {
  std::vector<std::string> parts;
  specials.split(
      text, controls, [&](std::string_view part) { parts.push_back(fmt::format("[{}]", part)); },
      [&](int32_t token) { parts.push_back(std::to_string(token)); });
  return parts;
}

SpecialToken token(std::string text, int32_t id) {
  SpecialToken token;
  token.text = std::move(text);
  token.id = id;
  return token;
}

SpecialToken control(std::string text, int32_t id) {
  SpecialToken result = token(std::move(text), id);
  result.control = true;
  return result;
}

TEST(SpecialTokens, LongestAtTheLeftmostPlace) {
  const SpecialTokens specials({control("<a>", 1), control("<a>b", 2), token("<a>bcd", 3),
                                control("\xc3\xa9", 4), control("<a>", 5)});
  EXPECT_EQ(specials.size(), 4u);  // one is there twice, and the first stays
  EXPECT_THAT(split(specials, ""), ElementsAre());
  EXPECT_THAT(split(specials, "text <s>"), ElementsAre("[text <s>]"));
  EXPECT_THAT(split(specials, "x<a>"), ElementsAre("[x]", "1"));
  EXPECT_THAT(split(specials, "<a><a>bz<a>bc"), ElementsAre("1", "2", "[z]", "2", "[c]"));
  EXPECT_THAT(split(specials, "<a>bcd<a"), ElementsAre("3", "[<a]"));
  EXPECT_THAT(split(specials, "<<a>b"), ElementsAre("[<]", "2"));
  EXPECT_THAT(split(specials, "1\xc3\xa9\xc3"), ElementsAre("[1]", "4", "[\xc3]"));
  EXPECT_EQ(specials.longest_at("<a>")->id, 1);
  EXPECT_EQ(specials.longest_at("<s>"), nullptr);
}

TEST(SpecialTokens, ControlsAreTextWhereTheyAreNotAskedFor) {
  const SpecialTokens specials({control("<a>", 1), token("a", 2), token(">", 3)});
  EXPECT_THAT(split(specials, "a<a>>"), ElementsAre("2", "1", "3"));
  // What a control token spells is no place for other tokens.
  EXPECT_THAT(split(specials, "a<a>>", false), ElementsAre("2", "[<a>]", "3"));
}

TEST(SpecialTokens, TakeWhitespaceAlong) {
  SpecialToken left = token("<l>", 1);
  left.lstrip = true;
  SpecialToken right = token("<r>", 2);
  right.rstrip = true;
  const SpecialTokens specials({left, right, token("<p>", 3)});
  EXPECT_THAT(split(specials, "a \t<l> b"), ElementsAre("[a]", "1", "[ b]"));
  EXPECT_THAT(split(specials, "a <r>\xe3\x80\x80\n b"), ElementsAre("[a ]", "2", "[b]"));
  EXPECT_THAT(split(specials, "  <l>"), ElementsAre("1"));
  EXPECT_THAT(split(specials, "<r>  "), ElementsAre("2"));
  // The whitespace between the two goes with the first, and none is left for the second.
  EXPECT_THAT(split(specials, "<r>  <l>x"), ElementsAre("2", "1", "[x]"));
  EXPECT_THAT(split(specials, "<p> <p>"), ElementsAre("3", "[ ]", "3"));
}

TEST(SpecialTokens, SingleWordsStandBetweenOtherCharacters) {
  SpecialToken word = token("mask", 1);
  word.single_word = true;
  const SpecialTokens specials({word});
  EXPECT_THAT(split(specials, "mask a mask,mask"), ElementsAre("1", "[ a ]", "1", "[,]", "1"));
  EXPECT_THAT(split(specials, "masks"), ElementsAre("[masks]"));
  EXPECT_THAT(split(specials, "_mask"), ElementsAre("[_mask]"));
  EXPECT_THAT(split(specials, "\xc3\xa9mask \xcc\x81mask"),
              ElementsAre("[\xc3\xa9mask \xcc\x81mask]"));
}

TEST(SpecialTokens, RefusesVeryLongOnes) {
  const std::string longest(SpecialTokens::kMaxBytes, 'x');
  EXPECT_EQ(SpecialTokens({control(longest, 7)}).size(), 1u);
  try {
    const SpecialTokens tokens({control(longest + "x", 7)});
    ADD_FAILURE() << "accepted " << longest.size() + 1 << " bytes";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kParse);
    EXPECT_THAT(error.message(), testing::HasSubstr("has 257 bytes, at most 256"));
  }
}

TEST(SpecialTokens, NearMissesTakeLinearTime) {
  // Each place of the text agrees with both tokens for 255 bytes.
  const std::string prefix(SpecialTokens::kMaxBytes - 1, 'a');
  const SpecialTokens specials({control(prefix + "b", 0), control(prefix + "c", 1)});
  const std::string text(200'000, 'a');
  size_t bytes = 0;
  const std::clock_t start = std::clock();
  specials.split(
      text, true, [&](std::string_view part) { bytes += part.size(); },
      [&](int32_t) { ADD_FAILURE(); });
  const double seconds = cpu_seconds_since(start);
  EXPECT_EQ(bytes, text.size());
  EXPECT_LT(seconds, 30);
}

}  // namespace
}  // namespace freekv
