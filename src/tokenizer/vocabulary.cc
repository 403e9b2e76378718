#include "tokenizer/vocabulary.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <random>

#include "core/check.hpp"
#include "io/quote.hpp"
#include "tokenizer/byte_alphabet.hpp"

namespace freekv {
namespace {

__extension__ typedef unsigned __int128 Uint128;

// Eight bytes at a time through a 64 x 64 -> 128 bit multiply whose halves are folded together.
uint64_t hash_bytes(std::string_view bytes, uint64_t seed) {
  const auto fold = [](uint64_t a, uint64_t b) {
    const auto product = static_cast<Uint128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  uint64_t hash = seed ^ bytes.size();
  while (!bytes.empty()) {
    uint64_t word = 0;
    const size_t length = std::min(bytes.size(), sizeof(word));
    std::memcpy(&word, bytes.data(), length);
    hash = fold(hash ^ word, 0x9e3779b97f4a7c15u ^ seed);
    bytes.remove_prefix(length);
  }
  return fold(hash, 0xd6e8feb86659fd93u);
}

bool is_literal(TokenType type) {
  return type == TokenType::kUnknown || type == TokenType::kControl ||
         type == TokenType::kUserDefined;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

int spelt_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const int high = hex_digit(token[3]);
  const int low = hex_digit(token[4]);
  return high < 0 || low < 0 ? -1 : high << 4 | low;
}

std::string unmark_spaces(std::string_view text) {
  std::string plain;
  for (size_t mark = 0; (mark = text.find(kSpaceMark)) != std::string_view::npos;) {
    plain += text.substr(0, mark);
    plain += ' ';
    text.remove_prefix(mark + kSpaceMark.size());
  }
  return plain += text;
}

void Vocabulary::check_type(size_t id) const {
  const auto type = static_cast<int32_t>(types_[id]);
  if (type < static_cast<int32_t>(TokenType::kNormal) ||
      type > static_cast<int32_t>(TokenType::kByte)) {
    fail(ErrorCode::kParse, "token {} has type {}, must be 1 to 6", id, type);
  }
}

void Vocabulary::append_token(size_t id, std::string_view token, TokenSpelling spelling) {
  const TokenType type = types_[id];
  if (spelling == TokenSpelling::kByteAlphabet) {
    if (is_literal(type) || !append_spelled_bytes(token, arena_)) arena_ += token;
  } else if (type == TokenType::kByte) {
    const int byte = spelt_byte(token);
    if (byte < 0) {
      fail(ErrorCode::kParse, "byte token {} is {}, must be like '<0x0A>'", id, quoted(token));
    }
    arena_ += static_cast<char>(byte);
  } else {
    if (token.size() > kMaxPieceBytes) {
      fail(ErrorCode::kParse, "token {} has {} bytes, at most {} are supported", id, token.size(),
           kMaxPieceBytes);
    }
    arena_ += unmark_spaces(token);
  }
}

Vocabulary::Vocabulary(const std::vector<std::string_view>& tokens,
                       std::span<const TokenType> types, const Options& options) {
  if (tokens.empty()) fail(ErrorCode::kParse, "the vocabulary has no tokens");
  if (tokens.size() > std::numeric_limits<int32_t>::max() / 4) {
    fail(ErrorCode::kParse, "the vocabulary has {} tokens, at most {} are supported", tokens.size(),
         std::numeric_limits<int32_t>::max() / 4);
  }
  if (!types.empty() && types.size() != tokens.size()) {
    fail(ErrorCode::kParse, "{} token types for {} tokens", types.size(), tokens.size());
  }
  types_.assign(tokens.size(), TokenType::kNormal);
  std::copy(types.begin(), types.end(), types_.begin());
  ends_.push_back(0);
  for (size_t i = 0; i < tokens.size(); ++i) {
    check_type(i);
    if (tokens[i].empty() && types_[i] != TokenType::kUnused) {
      fail(ErrorCode::kParse, "token {} is empty", i);
    }
    append_token(i, tokens[i], options.spelling);
    ends_.push_back(arena_.size());
  }
  const bool pieces = options.spelling == TokenSpelling::kSentencePiece;
  const auto findable = [&](int32_t id) {
    const auto i = static_cast<size_t>(id);
    if (tokens[i].empty()) return false;
    if (pieces && (types_[i] == TokenType::kByte || tokens[i].find(' ') != std::string_view::npos))
      return false;
    return options.in_text.empty() ? !is_control(id) : options.in_text[i] != 0;
  };
  // A seed of its own per vocabulary, so that no file can be written whose tokens all collide.
  std::random_device random;
  seed_ = uint64_t{random()} << 32 | random();
  slots_.assign(std::bit_ceil(tokens.size() * 2), kNoToken);
  for (const bool user_defined : {false, true}) {
    for (int32_t id = 0; id < size(); ++id) {
      if (!findable(id) || (type(id) == TokenType::kUserDefined) != user_defined) continue;
      int32_t& slot = slots_[slot_of(bytes(id))];
      if (slot == kNoToken) slot = id;
    }
  }
}

// Where `bytes` is, or the free slot where it belongs. At most half of the slots are in use.
size_t Vocabulary::slot_of(std::string_view wanted) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = hash_bytes(wanted, seed_) & mask;
  while (slots_[slot] != kNoToken && bytes(slots_[slot]) != wanted) slot = (slot + 1) & mask;
  return slot;
}

int32_t Vocabulary::find_text(std::string_view wanted) const { return slots_[slot_of(wanted)]; }

}  // namespace freekv
