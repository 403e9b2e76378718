#include "tokenizer/normalizer.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/check.hpp"
#include "tokenizer/utf8.hpp"
#include "tokenizer/vocabulary.hpp"

namespace freekv {
namespace {

constexpr std::pair<uint32_t, uint32_t> kUnknown[] = {
#include "tokenizer/nfc_unknown_table.inc"
};

bool is_unknown(uint32_t code) {
  const auto* range = std::partition_point(std::begin(kUnknown), std::end(kUnknown),
                                           [&](const auto& r) { return r.second < code; });
  return range != std::end(kUnknown) && range->first <= code;
}

int combining_class(utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; }

// Decomposed characters between two that nothing combines across.
class Stretch {
 public:
  void add(uint32_t code) {
    utf8proc_int32_t parts[8];  // the longest canonical decomposition has 4
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), parts, 8,
                                               UTF8PROC_DECOMPOSE, &boundary);
    check_internal(count > 0 && count <= 8, "utf8proc gives {} for U+{:04X}", count, code);
    codes_.insert(codes_.end(), parts, parts + count);
  }

  // Appends the composition and empties the stretch. Marks are put in order here, since utf8proc
  // takes quadratic time for it.
  void flush(std::string& out) {
    for (auto at = codes_.begin(); at != codes_.end();) {
      at = std::find_if(at, codes_.end(), [](auto code) { return combining_class(code) != 0; });
      const auto end =
          std::find_if(at, codes_.end(), [](auto code) { return combining_class(code) == 0; });
      std::stable_sort(at, end,
                       [](auto a, auto b) { return combining_class(a) < combining_class(b); });
      at = end;
    }
    const auto count = utf8proc_normalize_utf32(
        codes_.data(), static_cast<utf8proc_ssize_t>(codes_.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    check_internal(count >= 0, "utf8proc gives {} for {} characters", count, codes_.size());
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      append_utf8(static_cast<uint32_t>(codes_[static_cast<size_t>(i)]), out);
    }
    codes_.clear();
  }

 private:
  std::vector<utf8proc_int32_t> codes_;
};

// Characters that are composed already and compose with nothing before them, of the most common
// scripts: below U+0300 there are no marks; then punctuation, kana, ideographs and Hangul.
bool is_plain(uint32_t code) {
  return code < 0x300 || (code >= 0x2010 && code <= 0x2027) || (code >= 0x3041 && code <= 0x3096) ||
         (code >= 0x30a1 && code <= 0x30fa) || (code >= 0x3400 && code <= 0x9fff) ||
         (code >= 0xac00 && code <= 0xd7a3);
}

// Bytes of plain characters that `text` begins with, and of the last of them.
struct PlainPrefix {
  size_t bytes = 0;
  size_t last = 0;
};

PlainPrefix plain_prefix(std::string_view text) {
  PlainPrefix prefix;
  while (prefix.bytes < text.size()) {
    const std::string_view rest = text.substr(prefix.bytes);
    if (static_cast<uint8_t>(rest[0]) < 0x80) {
      prefix.last = 1;
    } else {
      const Utf8Step step = utf8_step(rest);
      if (step.state != Utf8State::kValid) break;
      if (!is_plain(utf8_code_point(rest.substr(0, step.length)))) break;
      prefix.last = step.length;
    }
    prefix.bytes += prefix.last;
  }
  return prefix;
}

}  // namespace

std::optional<std::string> normalized(std::string_view text, const NormalizerOptions& options,
                                      bool at_start) {
  if (options.nfc) {
    if (is_plainly_nfc(text)) return std::nullopt;
    return normalize_nfc(text);
  }
  const bool marks = options.unmark_spaces && text.find(kSpaceMark) != std::string_view::npos;
  const bool wanted = options.space_prefix == SpacePrefix::kAlways ||
                      (options.space_prefix == SpacePrefix::kFirst && at_start);
  const bool has_space = text[0] == ' ' || (options.unmark_spaces && text.starts_with(kSpaceMark));
  const bool prefix = wanted && !(options.metaspace && has_space);
  if (!marks && !prefix) return std::nullopt;
  std::string result(prefix ? " " : "");
  return result += marks ? unmark_spaces(text) : std::string(text);
}

bool is_plainly_nfc(std::string_view text) { return plain_prefix(text).bytes == text.size(); }

std::string normalize_nfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  Stretch stretch;
  while (!text.empty()) {
    if (const PlainPrefix plain = plain_prefix(text); plain.bytes > 0) {
      // The last one may compose with what follows.
      stretch.flush(out);
      out += text.substr(0, plain.bytes - plain.last);
      text.remove_prefix(plain.bytes - plain.last);
      stretch.add(utf8_code_point(text.substr(0, plain.last)));
      text.remove_prefix(plain.last);
      continue;
    }
    const Utf8Step step = utf8_step(text);
    const std::string_view character = text.substr(0, step.length);
    const bool valid = step.state == Utf8State::kValid;
    const uint32_t code = valid ? utf8_code_point(character) : 0;
    if (valid && !is_unknown(code)) {
      stretch.add(code);
    } else {
      stretch.flush(out);
      out += character;
    }
    text.remove_prefix(character.size());
  }
  stretch.flush(out);
  return out;
}

}  // namespace freekv
