#include "tokenizer/vocabulary.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <random>

#include "core/check.hpp"
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

// Spelt tokens become their bytes; others are literal.
void append_token(std::string_view token, TokenType type, std::string& arena) {
  const bool literal =
      type == TokenType::kUnknown || type == TokenType::kControl || type == TokenType::kUserDefined;
  if (literal || !append_spelled_bytes(token, arena)) arena += token;
}

}  // namespace

Vocabulary::Vocabulary(const std::vector<std::string_view>& tokens,
                       std::span<const TokenType> types) {
  if (tokens.empty()) fail(ErrorCode::kParse, "the vocabulary has no tokens");
  if (tokens.size() > std::numeric_limits<int32_t>::max() / 4) {
    fail(ErrorCode::kParse, "the vocabulary has {} tokens, at most {} are supported", tokens.size(),
         std::numeric_limits<int32_t>::max() / 4);
  }
  if (!types.empty() && types.size() != tokens.size()) {
    fail(ErrorCode::kParse, "{} token types for {} tokens", types.size(), tokens.size());
  }
  types_.assign(tokens.size(), TokenType::kNormal);
  ends_.push_back(0);
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!types.empty()) types_[i] = types[i];
    const auto type = static_cast<int32_t>(types_[i]);
    if (type < static_cast<int32_t>(TokenType::kNormal) ||
        type > static_cast<int32_t>(TokenType::kByte)) {
      fail(ErrorCode::kParse, "token {} has type {}, must be 1 to 6", i, type);
    }
    if (tokens[i].empty()) fail(ErrorCode::kParse, "token {} is empty", i);
    append_token(tokens[i], types_[i], arena_);
    ends_.push_back(arena_.size());
  }
  // A seed of its own per vocabulary, so that no file can be written whose tokens all collide.
  std::random_device random;
  seed_ = uint64_t{random()} << 32 | random();
  slots_.assign(std::bit_ceil(tokens.size() * 2), kNoToken);
  for (const bool user_defined : {false, true}) {
    for (int32_t id = 0; id < size(); ++id) {
      if (is_control(id) || (type(id) == TokenType::kUserDefined) != user_defined) continue;
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
