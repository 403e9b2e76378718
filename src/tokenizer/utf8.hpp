// UTF-8 boundaries in arbitrary bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace freekv {

enum class Utf8State {
  kValid,      // a whole character begins here
  kTruncated,  // all bytes of the text are a proper prefix of some character
  kInvalid,    // no character begins here
};

struct Utf8Step {
  Utf8State state;
  size_t length;  // of the character, of the prefix, or 1 for an invalid byte
};

/// What non-empty `text` begins with. Well-formed means Table 3-7 of the Unicode standard: no
/// overlong forms, no surrogates, nothing above U+10FFFF.
Utf8Step utf8_step(std::string_view text);

/// The code point of one well-formed character.
inline uint32_t utf8_code_point(std::string_view character) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<uint8_t>(character[i]));
  };
  const auto tail = [&](size_t i) { return byte(i) & 0x3fu; };
  switch (character.size()) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1fu) << 6 | tail(1);
    case 3:
      return (byte(0) & 0xfu) << 12 | tail(1) << 6 | tail(2);
    default:
      return (byte(0) & 0x7u) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3);
  }
}

/// Appends the character of a code point: at most 0x10ffff and no surrogate.
void append_utf8(uint32_t code, std::string& text);

/// Bytes at the start of `text` that are well-formed, in whole characters.
size_t utf8_valid_prefix(std::string_view text);

/// Bytes at the start of `text` up to the first well-formed character.
size_t utf8_invalid_prefix(std::string_view text);

/// Bytes at the end of `text` (0 to 3) that may become a character when more bytes follow.
size_t utf8_incomplete_suffix(std::string_view text);

}  // namespace freekv
