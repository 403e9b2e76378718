#include "tokenizer/unicode_class.hpp"

#include <algorithm>
#include <map>

#include "tokenizer/utf8.hpp"

namespace freekv {
namespace {

struct ClassChange {
  uint32_t first;
  uint8_t bits;
};

constexpr ClassChange kChanges[] = {
#include "tokenizer/unicode_class_table.inc"
};

// Class of the character at the start or at the end of `text`, with its bytes; no bytes when there
// is none.
struct Edge {
  uint8_t bits = 0;
  size_t bytes = 0;
};

Edge first_of(std::string_view text) {
  if (text.empty()) return {};
  const Utf8Step step = utf8_step(text);
  if (step.state != Utf8State::kValid) return {};
  return {UnicodeClasses::get()[utf8_code_point(text.substr(0, step.length))], step.length};
}

Edge last_of(std::string_view text) {
  for (size_t length = 1; length <= std::min<size_t>(4, text.size()); ++length) {
    const std::string_view last = text.substr(text.size() - length);
    if (const Edge edge = first_of(last); edge.bytes == length) return edge;
  }
  return {};
}

}  // namespace

UnicodeClasses::UnicodeClasses() {
  std::map<std::array<uint8_t, 128>, uint32_t> known;
  const ClassChange* change = kChanges;
  for (uint32_t block = 0; block < block_of_.size(); ++block) {
    std::array<uint8_t, 128> bits;
    for (uint32_t i = 0; i < bits.size(); ++i) {
      while (change + 1 != std::end(kChanges) && change[1].first <= block * 128 + i) ++change;
      bits[i] = change->bits;
    }
    const auto [it, fresh] = known.emplace(bits, static_cast<uint32_t>(blocks_.size()));
    if (fresh) blocks_.insert(blocks_.end(), bits.begin(), bits.end());
    block_of_[block] = it->second;
  }
}

const UnicodeClasses& UnicodeClasses::get() {
  static const UnicodeClasses classes;
  return classes;
}

bool starts_with_word(std::string_view text) { return (first_of(text).bits & kWordCharacter) != 0; }

bool ends_with_word(std::string_view text) { return (last_of(text).bits & kWordCharacter) != 0; }

size_t whitespace_at_start(std::string_view text) {
  size_t bytes = 0;
  while (true) {
    const Edge edge = first_of(text.substr(bytes));
    if ((edge.bits & kWhitespace) == 0) return bytes;
    bytes += edge.bytes;
  }
}

size_t whitespace_at_end(std::string_view text) {
  size_t bytes = 0;
  while (true) {
    const Edge edge = last_of(text.substr(0, text.size() - bytes));
    if ((edge.bits & kWhitespace) == 0) return bytes;
    bytes += edge.bytes;
  }
}

}  // namespace freekv
