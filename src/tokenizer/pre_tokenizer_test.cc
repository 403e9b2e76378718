#include "tokenizer/pre_tokenizer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

namespace freekv {
namespace {

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

TEST(PreTokenizer, AcceptsTheNamesThatFilesUse) {
  for (const auto& [name, canonical] :
       std::vector<std::pair<std::string, std::string>>{{"gpt-2", "gpt-2"},
                                                        {"default", "gpt-2"},
                                                        {"llama-bpe", "llama-bpe"},
                                                        {"llama3", "llama-bpe"},
                                                        {"llama-v3", "llama-bpe"},
                                                        {"qwen2", "qwen2"},
                                                        {"deepseek-r1-qwen", "qwen2"}}) {
    EXPECT_EQ(PreTokenizer::create(name).value().name(), canonical);
  }
  const Result<PreTokenizer> unknown = PreTokenizer::create("tekken");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code(), ErrorCode::kUnsupported);
  EXPECT_EQ(unknown.error().message(),
            "pre-tokenizer is 'tekken', supported are gpt-2, llama-bpe and qwen2");
}

// Long runs of one kind of character, where a backtracking matcher may turn quadratic or run out of
// stack, with the compiled expression and with the interpreter.
TEST(PreTokenizer, LongRunsTakeLinearTime) {
  const std::vector<std::string> units = {"a",
                                          " ",
                                          "7",
                                          "!",
                                          "\n",
                                          "\xcc\x81",
                                          "\xff",
                                          " \n",
                                          " a",
                                          "a\xff",
                                          "\xe4\xb8\xad",
                                          "'s",
                                          "\xe2\x80\x83",
                                          "\r"};
  for (const std::string_view name : {"gpt-2", "llama-bpe", "qwen2"}) {
    for (const bool jit : {true, false}) {
      const PreTokenizer tokenizer = std::move(PreTokenizer::create(name, jit)).value();
      for (const std::string& unit : units) {
        std::string text;
        while (text.size() < (jit ? 1'000'000 : 250'000)) text += unit;
        for (const std::string_view tail : {"", "x"}) {
          text += tail;
          size_t bytes = 0;
          const auto start = std::chrono::steady_clock::now();
          tokenizer.split(text, [&](std::string_view word) {
            EXPECT_EQ(word.data(), text.data() + bytes);
            bytes += word.size();
          });
          const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
          EXPECT_EQ(bytes, text.size());
          // Quadratic time is minutes; a linear run is some 0.1 s, more under a sanitizer.
          EXPECT_LT(seconds.count(), 10) << name << " jit " << jit << " on '" << unit << "'";
        }
      }
    }
  }
}

}  // namespace
}  // namespace freekv
