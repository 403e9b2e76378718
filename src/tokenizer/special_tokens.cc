#include "tokenizer/special_tokens.hpp"

#include <algorithm>
#include <numeric>

#include "core/check.hpp"
#include "io/quote.hpp"

namespace freekv {

SpecialTokens::SpecialTokens(const Vocabulary& vocabulary) {
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (!vocabulary.is_control(id) && vocabulary.type(id) != TokenType::kUserDefined) continue;
    const std::string_view bytes = vocabulary.bytes(id);
    if (bytes.size() > kMaxBytes) {
      fail(ErrorCode::kParse, "special token {} ({}) has {} bytes, at most {} are supported", id,
           quoted(bytes), bytes.size(), kMaxBytes);
    }
    sorted_.push_back(id);
  }
  const auto bytes = [&](int32_t id) { return vocabulary.bytes(id); };
  std::stable_sort(sorted_.begin(), sorted_.end(),
                   [&](int32_t a, int32_t b) { return bytes(a) < bytes(b); });
  // Of tokens with the same bytes the lowest id stays.
  sorted_.erase(std::unique(sorted_.begin(), sorted_.end(),
                            [&](int32_t a, int32_t b) { return bytes(a) == bytes(b); }),
                sorted_.end());
  for (const int32_t id : sorted_) ++by_first_[static_cast<uint8_t>(bytes(id)[0]) + size_t{1}];
  std::partial_sum(by_first_.begin(), by_first_.end(), by_first_.begin());
}

// Narrows the sorted tokens to those that agree with the text, a byte at a time. A token that ends
// at the current depth sorts before those that go on.
int32_t SpecialTokens::longest_at(const Vocabulary& vocabulary, std::string_view text) const {
  const auto first = static_cast<uint8_t>(text[0]);
  const int32_t* begin = sorted_.data() + by_first_[first];
  const int32_t* end = sorted_.data() + by_first_[first + size_t{1}];
  int32_t found = kNoToken;
  for (size_t depth = 1; end - begin > 1; ++depth) {
    if (vocabulary.bytes(*begin).size() == depth) found = *begin++;
    if (depth == text.size()) return found;
    const auto byte_at = [&](int32_t id) {
      return static_cast<uint8_t>(vocabulary.bytes(id)[depth]);
    };
    const auto wanted = static_cast<uint8_t>(text[depth]);
    begin = std::partition_point(begin, end, [&](int32_t id) { return byte_at(id) < wanted; });
    end = std::partition_point(begin, end, [&](int32_t id) { return byte_at(id) == wanted; });
  }
  if (begin != end && text.starts_with(vocabulary.bytes(*begin))) found = *begin;
  return found;
}

void SpecialTokens::split(const Vocabulary& vocabulary, std::string_view text,
                          FunctionRef<void(std::string_view ordinary)> use_text,
                          FunctionRef<void(int32_t token)> use_token) const {
  size_t start = 0;  // of the ordinary text not yet handed over
  for (size_t at = 0; at < text.size();) {
    const int32_t token = longest_at(vocabulary, text.substr(at));
    if (token == kNoToken) {
      ++at;
      continue;
    }
    if (at > start) use_text(text.substr(start, at - start));
    use_token(token);
    at += vocabulary.bytes(token).size();
    start = at;
  }
  if (start < text.size()) use_text(text.substr(start));
}

}  // namespace freekv
