// Classes of Unicode characters that pre-tokenizers tell apart.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace freekv {

/// Bits of a character's class. General categories and White_Space as in Unicode 16.
enum UnicodeClass : uint8_t {
  kUpperLetter = 1,  // Lu and Lt
  kLowerLetter = 2,  // Ll
  kOtherLetter = 4,  // Lm and Lo
  kMark = 8,         // M
  kNumber = 16,      // N
  kWhitespace = 32,
  kWordCharacter = 64,  // \w of UTS #18: alphabetic, marks, decimal digits, connectors, joiners
  kLetter = kUpperLetter | kLowerLetter | kOtherLetter,
};

/// Immutable; made once per program from the compact table.
class UnicodeClasses {
 public:
  static const UnicodeClasses& get();

  /// Bits of the class; `code` is at most 0x10ffff.
  uint8_t operator[](uint32_t code) const { return blocks_[block_of_[code >> 7] + (code & 127)]; }

 private:
  UnicodeClasses();

  std::array<uint32_t, 0x110000 / 128> block_of_{};  // where the block of 128 characters begins
  std::vector<uint8_t> blocks_;                      // equal blocks once
};

/// Whether valid UTF-8 `text` begins or ends with a word character; false when it is empty.
bool starts_with_word(std::string_view text);
bool ends_with_word(std::string_view text);

/// Bytes of whitespace that `text` begins or ends with.
size_t whitespace_at_start(std::string_view text);
size_t whitespace_at_end(std::string_view text);

}  // namespace freekv
