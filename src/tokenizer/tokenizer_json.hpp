// The tokenizer.json of a checkpoint, read without trusting it.
//
// Memory stays within a small multiple of the file's size: the vocabulary and the merges, which are
// most of a tokenizer.json, become flat lists, and of the rest a document tree is built whose
// number of values is bounded by the size of the file.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "freekv/error.hpp"

namespace freekv {

/// Values nested deeper than this are refused.
inline constexpr int kMaxJsonDepth = 32;

/// The lists of a tokenizer.json.
class TokenizerLists {
 public:
  struct Token {
    std::string_view text;
    int64_t id;
  };
  struct Merge {
    std::string_view left;   // the whole of "left right" where the file writes a merge as one
    std::string_view right;  // empty then
  };
  size_t token_count() const { return tokens_.size(); }
  size_t merge_count() const { return merges_.size(); }
  /// Views live as long as this object stays where it is.
  Token token(size_t i) const { return {text(tokens_[i].text), tokens_[i].id}; }
  Merge merge(size_t i) const { return {text(merges_[i].left), text(merges_[i].right)}; }

 private:
  friend class TokenizerJsonReader;
  struct Range {
    size_t begin = 0;
    size_t size = 0;
  };
  struct TokenEntry {
    Range text;
    int64_t id;
  };
  struct MergeEntry {
    Range left;
    Range right;
  };
  std::string_view text(Range range) const {
    return std::string_view(arena_).substr(range.begin, range.size);
  }

  std::string arena_;
  std::vector<TokenEntry> tokens_;
  std::vector<MergeEntry> merges_;
};

/// Parses a tokenizer.json: "model"."vocab" and "model"."merges" go to `lists`, everything else is
/// returned. Throws Error(kParse) with `name` as where() for bytes that are not JSON, deep nesting,
/// more values than a file of this size may have, a vocabulary that is no object of numbers and
/// merges that are neither strings nor pairs of strings.
nlohmann::json parse_tokenizer_json(std::string_view bytes, const std::string& name,
                                    TokenizerLists& lists);

}  // namespace freekv
