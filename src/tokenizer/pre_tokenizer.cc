#include "tokenizer/pre_tokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "io/quote.hpp"
#include "tokenizer/unicode_class.hpp"
#include "tokenizer/utf8.hpp"

namespace freekv {
namespace {

// A character of the text: its class and its bytes, no bytes at the end.
struct Character {
  uint8_t bits;
  uint8_t bytes;
};

// Reads valid UTF-8.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text), classes_(UnicodeClasses::get()) {}

  bool at_end(size_t at) const { return at >= text_.size(); }
  // The byte there, or 0 at the end.
  char byte(size_t at) const { return at < text_.size() ? text_[at] : '\0'; }
  bool is_newline(size_t at) const { return byte(at) == '\r' || byte(at) == '\n'; }

  Character character(size_t at) const {
    if (at >= text_.size()) return {0, 0};
    const auto lead = static_cast<uint8_t>(text_[at]);
    if (lead < 0x80) return {classes_[lead], 1};
    const uint8_t bytes = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    return {classes_[utf8_code_point(text_.substr(at, bytes))], bytes};
  }

  // The end of the run of characters at `at` for which keep(bits).
  template <typename Keep>
  size_t run(size_t at, Keep keep) const {
    for (Character c = character(at); c.bytes > 0 && keep(c.bits); c = character(at)) at += c.bytes;
    return at;
  }

 private:
  std::string_view text_;
  const UnicodeClasses& classes_;
};

bool is_letter(uint8_t bits) { return (bits & kLetter) != 0; }
bool is_number(uint8_t bits) { return (bits & kNumber) != 0; }
bool is_whitespace(uint8_t bits) { return (bits & kWhitespace) != 0; }
// [^\s\p{L}\p{N}]
bool is_symbol(uint8_t bits) { return (bits & (kWhitespace | kLetter | kNumber)) == 0; }

// 's|'t|'re|'ve|'m|'ll|'d after the apostrophe at `at`: its end, or `at`. With any case the long s
// is an s too, as Unicode's case folding has it.
size_t contraction(const Scanner& text, size_t at, bool any_case) {
  const auto letter = [&](size_t i) {
    const char c = text.byte(i);
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  const char first = letter(at + 1);
  const char second = letter(at + 2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  if (second == 'e' && (first == 'r' || first == 'v')) return at + 3;
  if (first == 'l' && second == 'l') return at + 3;
  if (any_case && text.byte(at + 1) == '\xc5' && text.byte(at + 2) == '\xbf') return at + 3;
  return at;
}

// \s+(?!\S)|\s+: a run of whitespace, less the last one before other text, which that text's word
// may begin with.
size_t whitespace(const Scanner& text, size_t at) {
  size_t last = at;
  size_t end = at;
  for (Character c = text.character(at); is_whitespace(c.bits); c = text.character(end)) {
    last = end;
    end += c.bytes;
  }
  return text.at_end(end) || last == at ? end : last;
}

size_t gpt2_word(std::string_view subject, size_t at) {
  const Scanner text(subject);
  if (text.byte(at) == '\'') {
    if (const size_t end = contraction(text, at, false); end > at) return end - at;
  }
  const size_t start = text.byte(at) == ' ' ? at + 1 : at;
  const Character first = text.character(start);
  if (first.bytes > 0) {
    if (is_letter(first.bits)) return text.run(start, is_letter) - at;
    if (is_number(first.bits)) return text.run(start, is_number) - at;
    if (is_symbol(first.bits)) return text.run(start, is_symbol) - at;
  }
  return whitespace(text, at) - at;
}

// What the modern expressions share after letters:
// \p{N}{1,max_digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+, with a slash among the
// newlines for some.
size_t other_than_letters(const Scanner& text, size_t at, int max_digits, bool slash) {
  const Character first = text.character(at);
  if (is_number(first.bits)) {
    size_t end = at;
    for (int digits = 0; digits < max_digits; ++digits) {
      const Character digit = text.character(end);
      if (!is_number(digit.bits)) break;
      end += digit.bytes;
    }
    return end;
  }
  const size_t start = text.byte(at) == ' ' ? at + 1 : at;
  if (!text.at_end(start) && is_symbol(text.character(start).bits)) {
    size_t end = text.run(start, is_symbol);
    while (text.is_newline(end) || (slash && text.byte(end) == '/')) ++end;
    return end;
  }
  size_t after_newline = at;
  size_t end = at;
  for (Character c = first; is_whitespace(c.bits); c = text.character(end)) {
    if (text.is_newline(end)) after_newline = end + 1;
    end += c.bytes;
  }
  return after_newline > at ? after_newline : whitespace(text, at);
}

// [^\r\n\p{L}\p{N}]
bool may_precede_letters(const Scanner& text, size_t at, Character c) {
  return c.bytes > 0 && !is_letter(c.bits) && !is_number(c.bits) && !text.is_newline(at);
}

template <int kMaxDigits>
size_t modern_word(std::string_view subject, size_t at) {
  const Scanner text(subject);
  if (text.byte(at) == '\'') {
    if (const size_t end = contraction(text, at, true); end > at) return end - at;
  }
  const Character first = text.character(at);
  if (is_letter(first.bits)) return text.run(at, is_letter) - at;
  if (may_precede_letters(text, at, first)) {
    const size_t start = at + first.bytes;
    if (is_letter(text.character(start).bits)) return text.run(start, is_letter) - at;
  }
  return other_than_letters(text, at, kMaxDigits, false) - at;
}

bool may_begin_cased(uint8_t bits) { return (bits & (kUpperLetter | kOtherLetter | kMark)) != 0; }
bool may_end_cased(uint8_t bits) { return (bits & (kLowerLetter | kOtherLetter | kMark)) != 0; }

// [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+ at `at`: its end, or `at`.
size_t ends_in_lower(const Scanner& text, size_t at) {
  size_t end = at;
  size_t both = at;  // after the last character of the first run that may stand in the second
  for (Character c = text.character(end); may_begin_cased(c.bits); c = text.character(end)) {
    end += c.bytes;
    if (may_end_cased(c.bits)) both = end;
  }
  const size_t tail = text.run(end, may_end_cased);
  return tail > end ? tail : both;
}

// [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]* at `at`: its end, or `at`.
size_t begins_in_upper(const Scanner& text, size_t at) {
  const size_t end = text.run(at, may_begin_cased);
  return end > at ? text.run(end, may_end_cased) : at;
}

size_t tekken_word(std::string_view subject, size_t at) {
  const Scanner text(subject);
  const Character first = text.character(at);
  const size_t behind = may_precede_letters(text, at, first) ? at + first.bytes : at;
  for (const auto cased : {ends_in_lower, begins_in_upper}) {
    for (const size_t start : {behind, at}) {
      if (const size_t end = cased(text, start); end > start) return end - at;
    }
  }
  return other_than_letters(text, at, 1, true) - at;
}

constexpr std::array<std::string_view, 1> kGpt2Names = {"default"};
constexpr std::array<std::string_view, 2> kLlamaNames = {"llama3", "llama-v3"};
constexpr std::array<std::string_view, 1> kQwenNames = {"deepseek-r1-qwen"};

constexpr std::array<PreTokenizer::Family, 4> kFamilies = {{
    {"gpt-2", kGpt2Names, false,
     R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    {"llama-bpe", kLlamaNames, true,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
     R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"qwen2", kQwenNames, false,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
     R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"tekken",
     {},
     true,
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
     R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N})"
     R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
}};

constexpr std::array<size_t (*)(std::string_view, size_t), kFamilies.size()> kWordLengths = {
    gpt2_word, modern_word<3>, modern_word<1>, tekken_word};

}  // namespace

std::span<const PreTokenizer::Family> PreTokenizer::families() { return kFamilies; }

std::optional<std::string_view> PreTokenizer::name_of(std::string_view expression) {
  for (const Family& family : kFamilies) {
    if (family.expression == expression) return family.name;
  }
  return std::nullopt;
}

Result<PreTokenizer> PreTokenizer::create(std::string_view name) {
  std::string known;
  for (size_t i = 0; i < kFamilies.size(); ++i) {
    const Family& family = kFamilies[i];
    if (name == family.name || std::count(family.aliases.begin(), family.aliases.end(), name) > 0) {
      return PreTokenizer(family, kWordLengths[i]);
    }
    known += fmt::format("{}{}",
                         i == 0                     ? ""
                         : i + 1 < kFamilies.size() ? ", "
                                                    : " and ",
                         family.name);
  }
  return Error(ErrorCode::kUnsupported,
               fmt::format("pre-tokenizer is {}, supported are {}", quoted(name), known));
}

void PreTokenizer::split(std::string_view text,
                         FunctionRef<void(std::string_view word)> use) const {
  while (!text.empty()) {
    const std::string_view valid = text.substr(0, utf8_valid_prefix(text));
    for (size_t at = 0; at < valid.size();) {
      const size_t length = word_length_(valid, at);
      use(valid.substr(at, length));
      at += length;
    }
    text.remove_prefix(valid.size());
    const size_t invalid = utf8_invalid_prefix(text);
    if (invalid > 0) use(text.substr(0, invalid));
    text.remove_prefix(invalid);
  }
}

}  // namespace freekv
