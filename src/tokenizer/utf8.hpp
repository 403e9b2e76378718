// UTF-8 boundaries in arbitrary bytes.
#pragma once

#include <cstddef>
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

/// Bytes at the start of `text` that are well-formed, in whole characters.
size_t utf8_valid_prefix(std::string_view text);

/// Bytes at the start of `text` up to the first well-formed character.
size_t utf8_invalid_prefix(std::string_view text);

/// Bytes at the end of `text` (0 to 3) that may become a character when more bytes follow.
size_t utf8_incomplete_suffix(std::string_view text);

}  // namespace freekv
