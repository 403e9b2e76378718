#include "tokenizer/utf8.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace freekv {
namespace {

// Length of the character that a lead byte announces and the range of its second byte, which is
// where overlong forms, surrogates and too large values show. Length 0: not a lead byte.
struct Lead {
  size_t length;
  uint8_t low;
  uint8_t high;
};

constexpr Lead classify(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xc2) return {0, 0, 0};
  if (byte < 0xe0) return {2, 0x80, 0xbf};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte < 0xf0) return {3, 0x80, 0xbf};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte < 0xf4) return {4, 0x80, 0xbf};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

}  // namespace

Utf8Step utf8_step(std::string_view text) {
  const Lead lead = classify(static_cast<uint8_t>(text[0]));
  if (lead.length == 0) return {Utf8State::kInvalid, 1};
  const size_t available = std::min(lead.length, text.size());
  for (size_t i = 1; i < available; ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    const uint8_t low = i == 1 ? lead.low : 0x80;
    const uint8_t high = i == 1 ? lead.high : 0xbf;
    if (byte < low || byte > high) return {Utf8State::kInvalid, 1};
  }
  return {available < lead.length ? Utf8State::kTruncated : Utf8State::kValid, available};
}

void append_utf8(uint32_t code, std::string& text) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80u | (code >> shift & 0x3fu)); };
  if (code < 0x80) {
    text += static_cast<char>(code);
    return;
  }
  if (code < 0x800) {
    text += static_cast<char>(0xc0u | code >> 6);
  } else if (code < 0x10000) {
    text += static_cast<char>(0xe0u | code >> 12);
    tail(6);
  } else {
    text += static_cast<char>(0xf0u | code >> 18);
    tail(12);
    tail(6);
  }
  tail(0);
}

size_t utf8_valid_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    // Eight ASCII bytes at a time: most text is.
    uint64_t word = 0;
    if (text.size() - at >= sizeof(word)) {
      std::memcpy(&word, text.data() + at, sizeof(word));
      if ((word & 0x8080808080808080u) == 0) {
        at += sizeof(word);
        continue;
      }
    }
    const Utf8Step step = utf8_step(text.substr(at));
    if (step.state != Utf8State::kValid) break;
    at += step.length;
  }
  return at;
}

size_t utf8_invalid_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size() && utf8_step(text.substr(at)).state != Utf8State::kValid) ++at;
  return at;
}

size_t utf8_incomplete_suffix(std::string_view text) {
  for (size_t length = std::min<size_t>(3, text.size()); length > 0; --length) {
    if (utf8_step(text.substr(text.size() - length)).state == Utf8State::kTruncated) return length;
  }
  return 0;
}

}  // namespace freekv
