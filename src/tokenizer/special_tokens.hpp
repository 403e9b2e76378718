// Finds special tokens written out in a text.
//
// With the rules of Hugging Face tokenizers' added tokens, of which the special tokens of GGUF
// files are the plain case: leftmost first, of several at one place the longest.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/function_ref.hpp"
#include "tokenizer/vocabulary.hpp"

namespace freekv {

/// A token that text may spell out, before pre-tokenization and merges see it.
struct SpecialToken {
  std::string text;  // not empty
  int32_t id = kNoToken;
  bool control = false;      // stands for no text: found only where the caller asks for these
  bool lstrip = false;       // takes the whitespace before it along
  bool rstrip = false;       // and the whitespace behind it
  bool single_word = false;  // counts only between characters that are not part of words
};

/// Immutable once made.
class SpecialTokens {
 public:
  /// Longest special token in bytes: bounds the work per byte of text.
  static constexpr size_t kMaxBytes = 256;

  /// Of tokens with the same text the first stays. Throws Error(kParse) for one longer than
  /// kMaxBytes.
  explicit SpecialTokens(std::vector<SpecialToken> tokens);

  size_t size() const { return sorted_.size(); }
  std::span<const SpecialToken> tokens() const { return sorted_; }

  /// Cuts `text` into stretches of ordinary text, none empty, and special tokens, in order. Without
  /// `controls` the texts of control tokens are ordinary text, and no token is looked for in them.
  void split(std::string_view text, bool controls,
             FunctionRef<void(std::string_view ordinary)> use_text,
             FunctionRef<void(int32_t token)> use_token) const;

  /// The longest special token that non-empty `text` begins with, or nullptr.
  const SpecialToken* longest_at(std::string_view text) const;

 private:
  std::vector<SpecialToken> sorted_;      // by their text
  std::array<uint32_t, 257> by_first_{};  // those that begin with byte b: [by_first_[b], [b + 1])
};

}  // namespace freekv
