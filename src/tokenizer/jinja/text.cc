#include "tokenizer/jinja/text.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "core/check.hpp"
#include "tokenizer/utf8.hpp"

namespace freekv::jinja {
namespace {

// Bytes of the character that non-empty `text` begins with.
size_t step(std::string_view text) {
  const Utf8Step found = utf8_step(text);
  return found.state == Utf8State::kValid ? found.length : 1;
}

// Bytes of the character that non-empty `text` ends with.
size_t step_back(std::string_view text) {
  for (size_t length = std::min<size_t>(4, text.size()); length > 1; --length) {
    if (step(text.substr(text.size() - length)) == length) return length;
  }
  return 1;
}

bool is_line_end(std::string_view character) {
  constexpr std::array<std::string_view, 10> kEnds = {
      "\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\xc2\x85", "\xe2\x80\xa8", "\xe2\x80\xa9"};
  return std::find(kEnds.begin(), kEnds.end(), character) != kEnds.end();
}

// str.isprintable() of one character: neither a separator other than the space nor of category C.
bool is_printable(std::string_view character) {
  if (character.size() == 1) return character[0] >= 0x20 && character[0] < 0x7f;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point(character)))) {
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
      return false;
    default:
      return true;
  }
}

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
// Whether the filter title begins a word after this character.
bool begins_word(char c) {
  return is_space(std::string_view(&c, 1)) || c == '-' || c == '(' || c == '{' || c == '[' ||
         c == '<';
}
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

// "\u00e9", with a pair of surrogates beyond 16 bits.
std::string json_escape(uint32_t code) {
  if (code < 0x10000) return fmt::format("\\u{:04x}", code);
  const uint32_t rest = code - 0x10000;
  return fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (rest >> 10), 0xdc00 + (rest & 0x3ff));
}

}  // namespace

std::vector<size_t> character_offsets(std::string_view text) {
  std::vector<size_t> offsets = {0};
  while (offsets.back() < text.size()) {
    offsets.push_back(offsets.back() + step(text.substr(offsets.back())));
  }
  return offsets;
}

int64_t character_count(std::string_view text) {
  int64_t count = 0;
  for (size_t at = 0; at < text.size(); at += step(text.substr(at))) ++count;
  return count;
}

bool is_space(std::string_view character) {
  if (character.size() == 1) {
    const char c = character[0];
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f);
  }
  const uint32_t code = code_point(character);
  return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) ||
         code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

std::string_view stripped(std::string_view text, const std::string* chars, bool left, bool right) {
  const auto goes = [&](std::string_view character) {
    if (!chars) return is_space(character);
    for (size_t at = 0; at < chars->size();) {
      const size_t length = step(std::string_view(*chars).substr(at));
      if (std::string_view(*chars).substr(at, length) == character) return true;
      at += length;
    }
    return false;
  };
  while (left && !text.empty() && goes(text.substr(0, step(text)))) {
    text.remove_prefix(step(text));
  }
  while (right && !text.empty() && goes(text.substr(text.size() - step_back(text)))) {
    text.remove_suffix(step_back(text));
  }
  return text;
}

std::vector<std::string> split_space(std::string_view text, int64_t limit) {
  std::vector<std::string> pieces;
  text = stripped(text, nullptr, true, false);
  while (!text.empty()) {
    size_t end = 0;
    if (limit >= 0 && static_cast<int64_t>(pieces.size()) == limit) {
      pieces.emplace_back(text);
      break;
    }
    while (end < text.size() && !is_space(text.substr(end, step(text.substr(end))))) {
      end += step(text.substr(end));
    }
    pieces.emplace_back(text.substr(0, end));
    text = stripped(text.substr(end), nullptr, true, false);
  }
  return pieces;
}

std::vector<std::string> split_at(std::string_view text, std::string_view separator, int64_t limit,
                                  bool from_right) {
  std::vector<std::string> pieces;
  const auto more = [&] { return limit < 0 || static_cast<int64_t>(pieces.size()) < limit; };
  while (more()) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) break;
    if (from_right) {
      pieces.emplace_back(text.substr(at + separator.size()));
      text = text.substr(0, at);
    } else {
      pieces.emplace_back(text.substr(0, at));
      text = text.substr(at + separator.size());
    }
  }
  pieces.emplace_back(text);
  if (from_right) std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    size_t end = 0;
    while (end < text.size() && !is_line_end(text.substr(end, step(text.substr(end))))) {
      end += step(text.substr(end));
    }
    size_t next = end == text.size() ? end : end + step(text.substr(end));
    if (text.substr(end, 2) == "\r\n") next = end + 2;
    lines.emplace_back(text.substr(0, keep_ends ? next : end));
    text.remove_prefix(next);
  }
  return lines;
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to,
                     int64_t limit) {
  std::string result;
  int64_t done = 0;
  const auto more = [&] { return limit < 0 || done < limit; };
  if (from.empty()) {
    // Python puts `to` before every character and at the end.
    size_t at = 0;
    for (; more() && at <= text.size(); ++done) {
      result += to;
      const size_t length = at < text.size() ? step(text.substr(at)) : 1;
      result += text.substr(std::min(at, text.size()), length);
      at += length;
    }
    return result.append(text.substr(std::min(at, text.size())));
  }
  while (more()) {
    const size_t at = text.find(from);
    if (at == std::string_view::npos) break;
    result.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
    ++done;
  }
  return result.append(text);
}

std::string in_case(std::string_view text, Case wanted) {
  std::string result(text);
  bool begins = true;
  for (char& c : result) {
    if (static_cast<uint8_t>(c) >= 0x80) {
      fail(ErrorCode::kUnsupported, "upper or lower case of characters that are not ASCII");
    }
    const bool to_upper = wanted == Case::kUpper || (wanted != Case::kLower && begins);
    c = to_upper ? upper(c) : lower(c);
    begins = wanted == Case::kTitle ? begins_word(c) : wanted == Case::kWords && !is_letter(c);
  }
  return result;
}

std::string text_repr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string result(1, quote);
  for (size_t at = 0; at < text.size();) {
    const std::string_view character = text.substr(at, step(text.substr(at)));
    at += character.size();
    if (character[0] == quote || character[0] == '\\') {
      result += '\\';
      result += character;
    } else if (character == "\n") {
      result += "\\n";
    } else if (character == "\r") {
      result += "\\r";
    } else if (character == "\t") {
      result += "\\t";
    } else if (is_printable(character)) {
      result += character;
    } else {
      const uint32_t code =
          character.size() == 1 ? static_cast<uint8_t>(character[0]) : code_point(character);
      if (code < 0x100) {
        result += fmt::format("\\x{:02x}", code);
      } else {
        result += code < 0x10000 ? fmt::format("\\u{:04x}", code) : fmt::format("\\U{:08x}", code);
      }
    }
  }
  return result += quote;
}

std::string json_text(std::string_view text, bool ensure_ascii) {
  std::string result = "\"";
  for (size_t at = 0; at < text.size();) {
    const std::string_view character = text.substr(at, step(text.substr(at)));
    at += character.size();
    switch (character[0]) {
      case '"':
        result += "\\\"";
        break;
      case '\\':
        result += "\\\\";
        break;
      case '\n':
        result += "\\n";
        break;
      case '\r':
        result += "\\r";
        break;
      case '\t':
        result += "\\t";
        break;
      case '\f':
        result += "\\f";
        break;
      case '\b':
        result += "\\b";
        break;
      default: {
        const bool plain = static_cast<uint8_t>(character[0]) < 0x80;
        if (plain ? static_cast<uint8_t>(character[0]) < 0x20 : ensure_ascii) {
          result += json_escape(plain ? static_cast<uint8_t>(character[0]) : code_point(character));
        } else {
          result += character;
        }
      }
    }
  }
  return result += '"';
}

void append_utf8(std::string& text, uint32_t code) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80 | ((code >> shift) & 0x3f)); };
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += static_cast<char>(0xc0 | (code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    text += static_cast<char>(0xe0 | (code >> 12));
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xf0 | (code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

uint32_t code_point(std::string_view character) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<uint8_t>(character[i]));
  };
  switch (character.size()) {
    case 1:
      return byte(0) < 0x80 ? byte(0) : 0xfffd;
    case 2:
      return (byte(0) & 0x1f) << 6 | (byte(1) & 0x3f);
    case 3:
      return (byte(0) & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
    default:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 |
             (byte(3) & 0x3f);
  }
}

}  // namespace freekv::jinja
