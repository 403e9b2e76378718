// Finds special tokens written out in a text.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/function_ref.hpp"
#include "tokenizer/vocabulary.hpp"

namespace freekv {

/// The control, unknown and user-defined tokens of a vocabulary: the one that every call is given.
class SpecialTokens {
 public:
  /// Longest special token in bytes: bounds the work per byte of text.
  static constexpr size_t kMaxBytes = 256;

  /// Throws Error(kParse) for a special token longer than kMaxBytes.
  explicit SpecialTokens(const Vocabulary& vocabulary);

  size_t size() const { return sorted_.size(); }

  /// Cuts `text` into stretches of ordinary text, none empty, and special tokens, in order. From
  /// left to right, and at each place the longest token wins.
  void split(const Vocabulary& vocabulary, std::string_view text,
             FunctionRef<void(std::string_view ordinary)> use_text,
             FunctionRef<void(int32_t token)> use_token) const;

  /// The longest special token that non-empty `text` begins with, or kNoToken.
  int32_t longest_at(const Vocabulary& vocabulary, std::string_view text) const;

 private:
  std::vector<int32_t> sorted_;           // ids by their bytes
  std::array<uint32_t, 257> by_first_{};  // those that begin with byte b: [by_first_[b], [b + 1])
};

}  // namespace freekv
