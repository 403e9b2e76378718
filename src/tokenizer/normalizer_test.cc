#include "tokenizer/normalizer.hpp"

#include <gtest/gtest.h>

#include <ctime>
#include <string>

#include "tokenizer/utf8.hpp"

namespace freekv {
namespace {

std::string text_of(std::initializer_list<uint32_t> codes) {
  std::string text;
  for (const uint32_t code : codes) append_utf8(code, text);
  return text;
}

TEST(NormalizeNfc, ComposesAndOrders) {
  const struct {
    std::string from;
    std::string to;
  } cases[] = {
      {"", ""},
      {"plain text", "plain text"},
      {text_of({'e', 0x301}), text_of({0xe9})},
      {text_of({'x', 'e', 0x301, 'y'}), text_of({'x', 0xe9, 'y'})},
      {text_of({0xe9}), text_of({0xe9})},
      // Marks are put in order of their class, and those of one class keep theirs.
      {text_of({'a', 0x315, 0x300, 0x5ae, 0x62}), text_of({0xe0, 0x5ae, 0x315, 0x62})},
      {text_of({'q', 0x307, 0x323}), text_of({'q', 0x323, 0x307})},
      {text_of({'a', 0x300, 0x301}), text_of({0xe0, 0x301})},
      {text_of({0x1112, 0x1161, 0x11ab}), text_of({0xd55c})},
      {text_of({0xd558, 0x11ab}), text_of({0xd55c})},
      {text_of({0x3042, 0x4e2d, 0x304b, 0x3099}), text_of({0x3042, 0x4e2d, 0x304c})},
      {text_of({0x212b}), text_of({0xc5})},         // a singleton
      {text_of({0x958}), text_of({0x915, 0x93c})},  // excluded from composition
      {text_of({0xfb01}), text_of({0xfb01})},       // compatibility only
      {text_of({0x300}), text_of({0x300})},         // nothing to compose with
      // What is not UTF-8 stays and separates.
      {"e\xff" + text_of({0x301}), "e\xff" + text_of({0x301})},
      {"\xcc", "\xcc"},
      // Marks and compositions later than Unicode 9 are left as they are.
      {text_of({'a', 0x345, 0x898}), text_of({'a', 0x345, 0x898})},
      {text_of({0x11935, 0x11930}), text_of({0x11935, 0x11930})},
      {text_of({0x105c9}), text_of({0x105c9})},
  };
  for (const auto& [from, to] : cases) {
    EXPECT_EQ(normalize_nfc(from), to) << from;
    EXPECT_EQ(normalize_nfc(to), to) << to;
    EXPECT_TRUE(!is_plainly_nfc(from) || from == to) << from;
  }
}

TEST(NormalizeNfc, KnowsPlainText) {
  EXPECT_TRUE(is_plainly_nfc("It\xe2\x80\x99s caf\xc3\xa9 \xe4\xb8\xad\xed\x95\x9c"));
  EXPECT_FALSE(is_plainly_nfc("e\xcc\x81"));
  EXPECT_FALSE(is_plainly_nfc("a\xff"));
}

TEST(NormalizeNfc, AlternatingMarksTakeLinearTime) {
  std::string text = "a";
  while (text.size() < 1'000'000) text += text_of({0x315, 0x327});
  const std::clock_t start = std::clock();
  EXPECT_EQ(normalize_nfc(text).size(), text.size());
  // Some 0.1 s; quadratic time is hours.
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 10);
}

TEST(Normalized, PrefixesAndMarks) {
  NormalizerOptions options{.unmark_spaces = true, .space_prefix = SpacePrefix::kAlways};
  EXPECT_EQ(normalized("a", options, false), " a");
  EXPECT_EQ(normalized(" a", options, false), "  a");
  EXPECT_EQ(normalized("\xe2\x96\x81"
                       "a",
                       options, true),
            "  a");
  options.metaspace = true;
  EXPECT_EQ(normalized(" a", options, false), std::nullopt);
  EXPECT_EQ(normalized("\xe2\x96\x81"
                       "a",
                       options, true),
            " a");
  options.space_prefix = SpacePrefix::kFirst;
  EXPECT_EQ(normalized("a", options, true), " a");
  EXPECT_EQ(normalized("a", options, false), std::nullopt);
}

}  // namespace
}  // namespace freekv
