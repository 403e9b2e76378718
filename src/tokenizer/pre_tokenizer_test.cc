#include "tokenizer/pre_tokenizer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <ctime>
#include <random>
#include <string>
#include <vector>

namespace freekv {
namespace {

// Of the processor: other programs on the machine do not count.
double cpu_seconds_since(std::clock_t start) {
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

using testing::ElementsAre;

std::vector<std::string> split(std::string_view name, std::string_view text) {
  const PreTokenizer tokenizer = std::move(PreTokenizer::create(name)).value();
  std::vector<std::string> words;
  tokenizer.split(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

TEST(PreTokenizer, CutsAsEachFamilyDoes) {
  EXPECT_THAT(split("gpt-2", "I'll pay  $1234 to Zoë'S.\n\n x"),
              ElementsAre("I", "'ll", " pay", " ", " $", "1234", " to", " Zoë", "'", "S", ".",
                          "\n\n", " x"));
  EXPECT_THAT(
      split("llama-bpe", "I'll pay  $1234 to Zoë'S.\n\n x"),
      ElementsAre("I", "'ll", " pay", " ", " $", "123", "4", " to", " Zoë", "'S", ".\n\n", " x"));
  EXPECT_THAT(split("qwen2", "I'll pay  $1234 to (Zoë)'S.\n\n x"),
              ElementsAre("I", "'ll", " pay", " ", " $", "1", "2", "3", "4", " to", " (", "Zoë",
                          ")'", "S", ".\n\n", " x"));
  EXPECT_THAT(split("qwen2", "  \n \n   a"), ElementsAre("  \n \n", "  ", " a"));
  EXPECT_THAT(split("gpt-2", "a   "), ElementsAre("a", "   "));
  EXPECT_THAT(split("gpt-2", ""), ElementsAre());
}

TEST(PreTokenizer, WhitespaceIsTheUnicodeProperty) {
  // U+0085, U+3000 and U+2009 are White_Space; U+180E, U+200B and U+FEFF are not.
  EXPECT_THAT(split("qwen2", "!\xc2\x85!\xe3\x80\x80!\xe2\x80\x89!"),
              ElementsAre("!", "\xc2\x85", "!", "\xe3\x80\x80", "!", "\xe2\x80\x89", "!"));
  EXPECT_THAT(split("qwen2", "!\xe1\xa0\x8e!\xe2\x80\x8b!\xef\xbb\xbf!"),
              ElementsAre("!\xe1\xa0\x8e!\xe2\x80\x8b!\xef\xbb\xbf!"));
}

TEST(PreTokenizer, BytesThatAreNotUtf8AreWordsOfTheirOwn) {
  EXPECT_THAT(split("qwen2", "ab\xff\xc0\x80 cd\xe2\x82"),
              ElementsAre("ab", "\xff\xc0\x80", " cd", "\xe2\x82"));
  EXPECT_THAT(split("gpt-2", std::string("\0\x80\0", 3)),
              ElementsAre(std::string("\0", 1), "\x80", std::string("\0", 1)));
}

TEST(PreTokenizer, TekkenCutsAtCase) {
  EXPECT_THAT(split("tekken",
                    "helloWorld HTTPServer iPhone5 \xe6\x97\xa5\xe6\x9c\xac"
                    "ABC"),
              ElementsAre("hello", "World", " HTTPServer", " i", "Phone", "5",
                          " \xe6\x97\xa5\xe6\x9c\xac", "ABC"));
  EXPECT_THAT(split("tekken", "it's 12 a//b\n/c"),
              ElementsAre("it", "'s", " ", "1", "2", " a", "//", "b", "\n", "/c"));
}

TEST(PreTokenizer, AcceptsTheNamesThatFilesUse) {
  for (const auto& [name, canonical] :
       std::vector<std::pair<std::string, std::string>>{{"gpt-2", "gpt-2"},
                                                        {"default", "gpt-2"},
                                                        {"llama-bpe", "llama-bpe"},
                                                        {"llama3", "llama-bpe"},
                                                        {"llama-v3", "llama-bpe"},
                                                        {"qwen2", "qwen2"},
                                                        {"deepseek-r1-qwen", "qwen2"},
                                                        {"tekken", "tekken"}}) {
    EXPECT_EQ(PreTokenizer::create(name).value().name(), canonical);
  }
  const Result<PreTokenizer> unknown = PreTokenizer::create("bloom");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code(), ErrorCode::kUnsupported);
  EXPECT_EQ(unknown.error().message(),
            "pre-tokenizer is 'bloom', supported are gpt-2, llama-bpe, qwen2 and tekken");
}

// The words of a family by its regular expression. PCRE2's \s also takes U+180E, and its tables are
// of an older Unicode: the texts below use characters on which both agree.
std::vector<std::string> split_by_expression(std::string_view expression, std::string_view text) {
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()),
                                   expression.size(), PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr);
  pcre2_match_data* data = pcre2_match_data_create_from_pattern(code, nullptr);
  std::vector<std::string> words;
  for (size_t begin = 0; begin < text.size();) {
    const int rc = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), begin,
                               PCRE2_ANCHORED, data, nullptr);
    if (rc < 0) break;
    const size_t end = pcre2_get_ovector_pointer(data)[1];
    words.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  pcre2_match_data_free(data);
  pcre2_code_free(code);
  return words;
}

TEST(PreTokenizer, AgreesWithTheRegularExpressions) {
  // Every class and every character that an expression names, a few of each.
  const std::vector<std::string> pieces = {"a",
                                           "s",
                                           "S",
                                           "t",
                                           "T",
                                           "re",
                                           "VE",
                                           "m",
                                           "ll",
                                           "LL",
                                           "d",
                                           "'",
                                           "\xc5\xbf",
                                           "\xe2\x84\xaa",
                                           "\xc3\xa9",
                                           "\xc3\x89",
                                           "\xc7\x85",
                                           "\xca\xb0",
                                           "\xe4\xb8\xad",
                                           "\xe3\x81\x82",
                                           "\xcc\x81",
                                           "\xe0\xa4\xbf",
                                           "\xe2\x83\x9d",
                                           "1",
                                           "23",
                                           "\xd9\xa3",
                                           "\xe2\x85\xa3",
                                           "\xc2\xbd",
                                           " ",
                                           "  ",
                                           "\t",
                                           "\n",
                                           "\r",
                                           "\r\n",
                                           "\x0b",
                                           "\xc2\x85",
                                           "\xc2\xa0",
                                           "\xe2\x80\x83",
                                           "\xe3\x80\x80",
                                           "\xe2\x80\xa8",
                                           "/",
                                           ".",
                                           "!",
                                           "$",
                                           "_",
                                           std::string(1, '\0'),
                                           "\x7f",
                                           "\xe2\x80\x99",
                                           "\xf0\x9f\xa6\x99",
                                           "\xe2\x80\x8d",
                                           "\xef\xbb\xbf",
                                           "\xf0\x90\x90\x80",
                                           "\xf0\x9d\x9f\x98"};
  std::mt19937 random(11);
  for (const PreTokenizer::Family& family : PreTokenizer::families()) {
    for (int round = 0; round < 20000; ++round) {
      std::string text;
      for (auto n = random() % 12; n > 0; --n) text += pieces[random() % pieces.size()];
      ASSERT_EQ(split(family.name, text), split_by_expression(family.expression, text))
          << family.name << " on '" << text << "'";
    }
  }
}

TEST(PreTokenizer, FamiliesAreFoundByTheirExpression) {
  for (const PreTokenizer::Family& family : PreTokenizer::families()) {
    EXPECT_EQ(PreTokenizer::name_of(family.expression), family.name);
    EXPECT_EQ(PreTokenizer::name_of(std::string(family.expression) + "|x"), std::nullopt);
  }
}

TEST(PreTokenizer, LongRunsTakeLinearTime) {
  const std::vector<std::string> units = {"a",
                                          " ",
                                          "7",
                                          "!",
                                          "\n",
                                          "\xff",
                                          " \n",
                                          "\xcc\x81",
                                          " a",
                                          "a\xff",
                                          "'s",
                                          "\xe4\xb8\xad",
                                          "\xe2\x80\x83",
                                          "\r",
                                          "\xe4\xb8\xad"
                                          "A"};
  for (const PreTokenizer::Family& family : PreTokenizer::families()) {
    const PreTokenizer tokenizer = std::move(PreTokenizer::create(family.name)).value();
    for (const std::string& unit : units) {
      std::string text;
      while (text.size() < 1'000'000) text += unit;
      for (const std::string_view tail : {"", "x"}) {
        text += tail;
        size_t bytes = 0;
        const std::clock_t start = std::clock();
        tokenizer.split(text, [&](std::string_view word) {
          EXPECT_EQ(word.data(), text.data() + bytes);
          bytes += word.size();
        });
        const double seconds = cpu_seconds_since(start);
        EXPECT_EQ(bytes, text.size());
        // Quadratic time is minutes; a linear run is some 0.01 s, more under a sanitizer.
        EXPECT_LT(seconds, 10) << family.name << " on '" << unit << "'";
      }
    }
  }
}

}  // namespace
}  // namespace freekv
