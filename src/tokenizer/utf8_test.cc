#include "tokenizer/utf8.hpp"

#include <gtest/gtest.h>

#include <string>

namespace freekv {
namespace {

std::string encode(uint32_t code) {
  std::string text;
  append_utf8(code, text);
  return text;
}

TEST(Utf8, EveryCodePointAndItsPrefixes) {
  for (uint32_t code = 0; code < 0x120000; ++code) {
    const std::string text = encode(code);
    const bool valid = code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
    const Utf8Step step = utf8_step(text);
    ASSERT_EQ(step.state, valid ? Utf8State::kValid : Utf8State::kInvalid) << code;
    ASSERT_EQ(step.length, valid ? text.size() : 1u) << code;
    ASSERT_TRUE(!valid || utf8_code_point(text) == code) << code;
    for (size_t length = 1; valid && length < text.size(); ++length) {
      ASSERT_EQ(utf8_step(text.substr(0, length)).state, Utf8State::kTruncated) << code;
      ASSERT_EQ(utf8_incomplete_suffix("ab\xff" + text.substr(0, length)), length) << code;
    }
    ASSERT_EQ(utf8_incomplete_suffix(text), 0u) << code;
  }
}

TEST(Utf8, RefusesOverlongForms) {
  for (const std::string text : {"\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf",
                                 "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf"}) {
    EXPECT_EQ(utf8_step(text).state, Utf8State::kInvalid);
    EXPECT_EQ(utf8_incomplete_suffix(text.substr(0, 2)), 0u);
    EXPECT_EQ(utf8_invalid_prefix(text + "a"), text.size());
  }
}

TEST(Utf8, PrefixesOfMixedText) {
  const std::string text = "plain ascii, then \xc3\xa9 and \xf0\x9f\xa6\x99 more";
  EXPECT_EQ(utf8_valid_prefix(text), text.size());
  EXPECT_EQ(utf8_valid_prefix(text + "\x80" + text), text.size());
  EXPECT_EQ(utf8_valid_prefix(text + "\xf0\x9f\xa6"), text.size());
  EXPECT_EQ(utf8_invalid_prefix("\x80\xff\xc3z"), 3u);
  EXPECT_EQ(utf8_invalid_prefix("\xc3\xa9"), 0u);
  EXPECT_EQ(utf8_invalid_prefix("\xf0\x9f\xa6"), 3u);
  EXPECT_EQ(utf8_valid_prefix(""), 0u);
}

}  // namespace
}  // namespace freekv
