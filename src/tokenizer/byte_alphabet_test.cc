#include "tokenizer/byte_alphabet.hpp"

#include <gtest/gtest.h>

#include <set>

#include "tokenizer/utf8.hpp"

namespace freekv {
namespace {

TEST(ByteAlphabet, KnownSpellings) {
  EXPECT_EQ(spell_bytes(" hello\n"), "\xc4\xa0hello\xc4\x8a");  // U+0120, U+010A
  EXPECT_EQ(spell_bytes("\xc3\xa9"), "\xc3\x83\xc2\xa9");       // itself, itself
  EXPECT_EQ(spell_bytes(std::string("\0\x7f\xad", 3)), "\xc4\x80\xc4\xa1\xc5\x83");
}

TEST(ByteAlphabet, EveryByteHasItsOwnSpellingAndComesBack) {
  std::set<std::string> spellings;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string bytes(1, static_cast<char>(byte));
    const std::string spelling = spell_bytes(bytes);
    EXPECT_EQ(utf8_valid_prefix(spelling), spelling.size());
    EXPECT_TRUE(spellings.insert(spelling).second);
    std::string back = "kept ";
    ASSERT_TRUE(append_spelled_bytes(spelling, back));
    EXPECT_EQ(back, "kept " + bytes);
  }
}

TEST(ByteAlphabet, RefusesOtherCharacters) {
  for (const std::string text :
       {"a b", "\xc2\xad", "\xc5\x84", "\xe4\xb8\xad", "\xc4", "\x80", "x\xff"}) {
    std::string bytes = "kept";
    EXPECT_FALSE(append_spelled_bytes(text, bytes)) << text;
    EXPECT_EQ(bytes, "kept");
  }
}

}  // namespace
}  // namespace freekv
