#include "tokenizer/special_tokens.hpp"

#include <algorithm>
#include <numeric>

#include "core/check.hpp"
#include "io/quote.hpp"
#include "tokenizer/unicode_class.hpp"

namespace freekv {

SpecialTokens::SpecialTokens(std::vector<SpecialToken> tokens) : sorted_(std::move(tokens)) {
  for (const SpecialToken& token : sorted_) {
    if (token.text.size() > kMaxBytes) {
      fail(ErrorCode::kParse, "special token {} ({}) has {} bytes, at most {} are supported",
           token.id, quoted(token.text), token.text.size(), kMaxBytes);
    }
  }
  std::stable_sort(sorted_.begin(), sorted_.end(),
                   [](const SpecialToken& a, const SpecialToken& b) { return a.text < b.text; });
  sorted_.erase(
      std::unique(sorted_.begin(), sorted_.end(),
                  [](const SpecialToken& a, const SpecialToken& b) { return a.text == b.text; }),
      sorted_.end());
  for (const SpecialToken& token : sorted_) {
    ++by_first_[static_cast<uint8_t>(token.text[0]) + size_t{1}];
  }
  std::partial_sum(by_first_.begin(), by_first_.end(), by_first_.begin());
}

// Narrows the sorted tokens to those that agree with the text, a byte at a time. A token that ends
// at the current depth sorts before those that go on.
const SpecialToken* SpecialTokens::longest_at(std::string_view text) const {
  const auto first = static_cast<uint8_t>(text[0]);
  const SpecialToken* begin = sorted_.data() + by_first_[first];
  const SpecialToken* end = sorted_.data() + by_first_[first + size_t{1}];
  const SpecialToken* found = nullptr;
  for (size_t depth = 1; end - begin > 1; ++depth) {
    if (begin->text.size() == depth) found = begin++;
    if (depth == text.size()) return found;
    const auto byte_of = [&](const SpecialToken& token) {
      return static_cast<uint8_t>(token.text[depth]);
    };
    const auto wanted = static_cast<uint8_t>(text[depth]);
    begin = std::partition_point(
        begin, end, [&](const SpecialToken& token) { return byte_of(token) < wanted; });
    end = std::partition_point(begin, end,
                               [&](const SpecialToken& token) { return byte_of(token) == wanted; });
  }
  if (begin != end && text.starts_with(begin->text)) found = begin;
  return found;
}

void SpecialTokens::split(std::string_view text, bool controls,
                          FunctionRef<void(std::string_view ordinary)> use_text,
                          FunctionRef<void(int32_t token)> use_token) const {
  if (sorted_.empty()) {
    if (!text.empty()) use_text(text);
    return;
  }
  size_t start = 0;  // of the ordinary text not yet handed over
  for (size_t at = 0; at < text.size();) {
    const auto first = static_cast<uint8_t>(text[at]);
    const bool possible = by_first_[first] != by_first_[first + size_t{1}];
    const SpecialToken* token = possible ? longest_at(text.substr(at)) : nullptr;
    if (token == nullptr) {
      ++at;
      continue;
    }
    const size_t begin = at;
    at += token->text.size();
    if (token->control && !controls) continue;
    if (token->single_word &&
        (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(at)))) {
      continue;
    }
    if (begin > start) {
      std::string_view before = text.substr(start, begin - start);
      if (token->lstrip) before.remove_suffix(whitespace_at_end(before));
      if (!before.empty()) use_text(before);
    }
    use_token(token->id);
    // Whitespace that a token before has taken along may reach beyond this one.
    start = std::max(start, at);
    if (token->rstrip) start += whitespace_at_start(text.substr(start));
  }
  if (start < text.size()) use_text(text.substr(start));
}

}  // namespace freekv
