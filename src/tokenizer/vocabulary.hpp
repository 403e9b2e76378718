// The tokens of a byte-level BPE vocabulary as bytes, and the way back from bytes to tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace freekv {

/// With the numbers of tokenizer.ggml.token_type.
enum class TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,      // never part of text; ends turns, separates roles
  kUserDefined = 4,  // text that was added as a token of its own
  kUnused = 5,
  kByte = 6,
};

inline constexpr int32_t kNoToken = -1;

/// Immutable once made; owns its bytes. Ids are 0 to size() - 1.
class Vocabulary {
 public:
  /// `tokens` are spelt as in byte_alphabet.hpp; tokens of the types kUnknown, kControl and
  /// kUserDefined, and those with a character outside that alphabet, stand for their own bytes.
  /// `types` is empty (all kNormal) or as long as `tokens`. Throws Error(kParse) for an empty list
  /// or token, other types, and lists of different lengths.
  Vocabulary(const std::vector<std::string_view>& tokens, std::span<const TokenType> types);

  int32_t size() const { return static_cast<int32_t>(types_.size()); }

  /// 0 <= id < size() for these.
  std::string_view bytes(int32_t id) const {
    const auto i = static_cast<size_t>(id);
    return std::string_view(arena_).substr(ends_[i], ends_[i + 1] - ends_[i]);
  }
  TokenType type(int32_t id) const { return types_[static_cast<size_t>(id)]; }
  /// Whether the token stands for something other than text: kControl and kUnknown.
  bool is_control(int32_t id) const {
    return type(id) == TokenType::kControl || type(id) == TokenType::kUnknown;
  }

  /// The token that ordinary text with these bytes becomes, kNoToken when there is none: of several
  /// the lowest id of another type than kUserDefined, else the lowest; never a control token.
  int32_t find_text(std::string_view bytes) const;

 private:
  size_t slot_of(std::string_view bytes) const;

  std::string arena_;         // all tokens' bytes
  std::vector<size_t> ends_;  // token i is arena_[ends_[i], ends_[i + 1])
  std::vector<TokenType> types_;
  std::vector<int32_t> slots_;  // open addressing by hash of the bytes; a power of two
  uint64_t seed_ = 0;
};

}  // namespace freekv
