// The tokens of a BPE vocabulary as bytes, and the way back from bytes to tokens.
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

/// How a vocabulary spells the bytes of its tokens.
enum class TokenSpelling {
  kByteAlphabet,   // as in byte_alphabet.hpp
  kSentencePiece,  // UTF-8 with U+2581 for the space, and kByte tokens as "<0x0A>"
};

/// U+2581, which SentencePiece writes for a space.
inline constexpr std::string_view kSpaceMark = "\xe2\x96\x81";

/// `text` with every kSpaceMark as a space.
std::string unmark_spaces(std::string_view text);

/// The byte that a SentencePiece token such as "<0x0A>" spells, or -1.
int spelt_byte(std::string_view token);

/// Immutable once made; owns its bytes. Ids are 0 to size() - 1.
class Vocabulary {
 public:
  /// Longest token of SentencePiece spelling in bytes: bounds the work of finding its parts.
  static constexpr size_t kMaxPieceBytes = 1024;

  struct Options {
    TokenSpelling spelling = TokenSpelling::kByteAlphabet;
    /// By id, whether ordinary text may become the token; empty: all but kControl and kUnknown.
    std::span<const uint8_t> in_text = {};
  };

  /// In the byte alphabet, tokens of the types kUnknown, kControl and kUserDefined and those with a
  /// character outside it stand for their own bytes. Byte tokens, and pieces with a space where the
  /// mark should be, are never found by text. Only unused tokens may be empty. `types` is empty
  /// (all kNormal) or as long as `tokens`. Throws Error(kParse) for an empty list or token, other
  /// types, byte tokens spelt otherwise, and lists of different lengths.
  Vocabulary(const std::vector<std::string_view>& tokens, std::span<const TokenType> types,
             const Options& options);
  Vocabulary(const std::vector<std::string_view>& tokens, std::span<const TokenType> types)
      : Vocabulary(tokens, types, Options()) {}

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
  /// the lowest id of another type than kUserDefined, else the lowest.
  int32_t find_text(std::string_view bytes) const;

 private:
  void append_token(size_t id, std::string_view token, TokenSpelling spelling);
  void check_type(size_t id) const;
  size_t slot_of(std::string_view bytes) const;

  std::string arena_;         // all tokens' bytes
  std::vector<size_t> ends_;  // token i is arena_[ends_[i], ends_[i + 1])
  std::vector<TokenType> types_;
  std::vector<int32_t> slots_;  // open addressing by hash of the bytes; a power of two
  uint64_t seed_ = 0;
};

}  // namespace freekv
