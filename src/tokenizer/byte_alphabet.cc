#include "tokenizer/byte_alphabet.hpp"

#include <array>
#include <cstdint>

namespace freekv {
namespace {

constexpr size_t kSpellings = 256 + 68;

struct Alphabet {
  std::array<uint16_t, 256> code{};           // byte -> code point
  std::array<int16_t, kSpellings> byte_of{};  // code point -> byte, -1 where none
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte_of.fill(-1);
  uint16_t next = 0x100;
  for (uint16_t byte = 0; byte < 256; ++byte) {
    const bool itself = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
    const uint16_t code = itself ? byte : next++;
    alphabet.code[byte] = code;
    alphabet.byte_of[code] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

bool append_spelled_bytes(std::string_view text, std::string& bytes) {
  const size_t before = bytes.size();
  for (size_t i = 0; i < text.size(); ++i) {
    uint32_t code = static_cast<uint8_t>(text[i]);
    if (code >= 0x80) {
      // All code points of the alphabet take one or two bytes.
      const bool pair = code >= 0xc2 && code < 0xe0 && i + 1 < text.size() &&
                        (static_cast<uint8_t>(text[i + 1]) & 0xc0u) == 0x80u;
      code = pair ? (code & 0x1fu) << 6 | (static_cast<uint8_t>(text[++i]) & 0x3fu) : kSpellings;
    }
    const int16_t byte = code < kSpellings ? kAlphabet.byte_of[code] : int16_t{-1};
    if (byte < 0) {
      bytes.resize(before);
      return false;
    }
    bytes += static_cast<char>(byte);
  }
  return true;
}

std::string spell_bytes(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    const uint32_t code = kAlphabet.code[static_cast<uint8_t>(c)];
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else {
      text += static_cast<char>(0xc0u | code >> 6);
      text += static_cast<char>(0x80u | (code & 0x3fu));
    }
  }
  return text;
}

}  // namespace freekv
