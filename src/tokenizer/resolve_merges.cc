#include "tokenizer/resolve_merges.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/check.hpp"
#include "io/quote.hpp"
#include "tokenizer/byte_alphabet.hpp"
#include "tokenizer/utf8.hpp"

namespace freekv {
namespace {

constexpr auto kMaxMerges = static_cast<size_t>(std::numeric_limits<int32_t>::max());

int32_t find_part(const Vocabulary& vocabulary, std::string_view bytes, size_t merge,
                  std::string_view what) {
  const int32_t id = vocabulary.find_text(bytes);
  if (id == kNoToken) {
    fail(ErrorCode::kParse, "merge {}: its {} {} is no text token of the vocabulary", merge, what,
         quoted(bytes));
  }
  return id;
}

void append_bytes(std::string_view part, TokenSpelling spelling, std::string& bytes) {
  if (spelling == TokenSpelling::kSentencePiece) {
    bytes += unmark_spaces(part);
  } else if (!append_spelled_bytes(part, bytes)) {
    bytes += part;
  }
}

BpeMerges from_list(const TokenizerSpec& spec, const Vocabulary& vocabulary) {
  std::vector<BpeMerge> resolved;
  resolved.reserve(spec.merges.size());
  std::string bytes;
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    bytes.clear();
    append_bytes(spec.merges[i].left, spec.spelling, bytes);
    const size_t middle = bytes.size();
    append_bytes(spec.merges[i].right, spec.spelling, bytes);
    const std::string_view whole = bytes;
    resolved.push_back({find_part(vocabulary, whole.substr(0, middle), i, "left part"),
                        find_part(vocabulary, whole.substr(middle), i, "right part"),
                        find_part(vocabulary, whole, i, "result")});
  }
  return BpeMerges(resolved, vocabulary.size());
}

BpeMerges from_scores(const TokenizerSpec& spec, const Vocabulary& vocabulary) {
  if (spec.scores.size() != spec.tokens.size()) {
    fail(ErrorCode::kParse, "{} scores for {} tokens", spec.scores.size(), spec.tokens.size());
  }
  std::vector<float> falling = spec.scores;
  const auto nan = std::find_if(falling.begin(), falling.end(), [](float s) { return s != s; });
  if (nan != falling.end()) {
    fail(ErrorCode::kParse, "the score of token {} is not a number", nan - falling.begin());
  }
  std::sort(falling.begin(), falling.end(), std::greater<>());
  falling.erase(std::unique(falling.begin(), falling.end()), falling.end());

  std::vector<BpeMerge> merges;
  std::vector<uint32_t> ranks;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view bytes = vocabulary.bytes(id);
    if (vocabulary.find_text(bytes) != id) continue;
    const auto rank = std::lower_bound(falling.begin(), falling.end(),
                                       spec.scores[static_cast<size_t>(id)], std::greater<>()) -
                      falling.begin();
    for (size_t middle = utf8_step(bytes).length; middle < bytes.size();
         middle += utf8_step(bytes.substr(middle)).length) {
      const int32_t left = vocabulary.find_text(bytes.substr(0, middle));
      const int32_t right =
          left == kNoToken ? kNoToken : vocabulary.find_text(bytes.substr(middle));
      if (right == kNoToken) continue;
      merges.push_back({left, right, id});
      ranks.push_back(static_cast<uint32_t>(rank));
    }
  }
  return BpeMerges(merges, vocabulary.size(), ranks);
}

}  // namespace

BpeMerges resolve_merges(const TokenizerSpec& spec, const Vocabulary& vocabulary) {
  if (spec.merges.size() > kMaxMerges) {
    fail(ErrorCode::kParse, "{} merges, at most {} are supported", spec.merges.size(), kMaxMerges);
  }
  return spec.scores.empty() ? from_list(spec, vocabulary) : from_scores(spec, vocabulary);
}

MergeSpelling split_merge(std::string_view merge, size_t index) {
  // No spelling has a space, so that the first one separates the two parts.
  const size_t space = merge.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == merge.size()) {
    fail(ErrorCode::kParse, "merge {} is {}, must be two tokens and a space between", index,
         quoted(merge));
  }
  return {merge.substr(0, space), merge.substr(space + 1)};
}

}  // namespace freekv
