#include "tokenizer/terminal_text.hpp"

#include <gtest/gtest.h>

namespace freekv {
namespace {

TEST(TerminalText, ShowsControlCharacters) {
  EXPECT_EQ(for_terminal("\x1b[2J\x1b]0;title\a"), "^[[2J^[]0;title^G");
  EXPECT_EQ(for_terminal("a\rb\bc\x7f"), "a^Mb^Hc^?");
  EXPECT_EQ(for_terminal(std::string_view("\0", 1)), "^@");
  EXPECT_EQ(for_terminal("\xc2\x9b"
                         "2J"),
            "\xef\xbf\xbd"
            "2J");  // the one character that is escape and bracket
}

TEST(TerminalText, KeepsText) {
  const std::string text = "line\n\ttab, \xc3\xa9, \xe6\xbc\xa2, \xf0\x9f\x98\x80 and \xc2\xa0.";
  EXPECT_EQ(for_terminal(text), text);
  EXPECT_EQ(for_terminal(""), "");
}

TEST(TerminalText, BytesThatAreNoCharacter) {
  EXPECT_EQ(for_terminal("a\xff"
                         "b"),
            "a\xef\xbf\xbd"
            "b");
  EXPECT_EQ(for_terminal("a\xe6\xbc"), "a\xef\xbf\xbd");  // the beginning of one
  EXPECT_EQ(for_terminal("\x9b"), "\xef\xbf\xbd");        // a control character of Latin-1
}

}  // namespace
}  // namespace freekv
