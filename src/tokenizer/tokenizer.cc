#include "tokenizer/tokenizer.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/check.hpp"
#include "io/quote.hpp"
#include "tokenizer/byte_alphabet.hpp"

namespace freekv {
namespace {

constexpr auto kMaxInt32 = static_cast<size_t>(std::numeric_limits<int32_t>::max());

// The ends of a turn or of a text in common chat formats, which files do not always name by key.
constexpr auto kEndNames = std::to_array<std::string_view>(
    {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>"});

int32_t find_part(const Vocabulary& vocabulary, std::string_view bytes, size_t merge,
                  std::string_view what) {
  const int32_t id = vocabulary.find_text(bytes);
  if (id == kNoToken) {
    fail(ErrorCode::kParse, "merge {}: its {} {} is no text token of the vocabulary", merge, what,
         quoted(bytes));
  }
  return id;
}

}  // namespace

std::vector<BpeMerge> Tokenizer::resolve_merges(const std::vector<std::string_view>& merges,
                                                const Vocabulary& vocabulary) {
  if (merges.size() > kMaxInt32) {
    fail(ErrorCode::kParse, "{} merges, at most {} are supported", merges.size(), kMaxInt32);
  }
  std::vector<BpeMerge> resolved;
  std::string bytes;
  for (size_t i = 0; i < merges.size(); ++i) {
    // The alphabet has no space, so that the first one separates the two parts.
    const size_t space = merges[i].find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == merges[i].size()) {
      fail(ErrorCode::kParse, "merge {} is {}, must be two tokens and a space between", i,
           quoted(merges[i]));
    }
    bytes.clear();
    size_t middle = 0;
    for (const std::string_view part : {merges[i].substr(0, space), merges[i].substr(space + 1)}) {
      middle = bytes.size();
      if (!append_spelled_bytes(part, bytes)) bytes += part;
    }
    const std::string_view whole = bytes;
    resolved.push_back({find_part(vocabulary, whole.substr(0, middle), i, "left part"),
                        find_part(vocabulary, whole.substr(middle), i, "right part"),
                        find_part(vocabulary, whole, i, "result")});
  }
  return resolved;
}

Tokenizer::Tokenizer(const TokenizerSpec& spec)
    : vocabulary_(spec.tokens, spec.types),
      specials_(vocabulary_),
      merges_(resolve_merges(spec.merges, vocabulary_), vocabulary_.size()),
      pre_tokenizer_(PreTokenizer::create(spec.pre_tokenizer).value()),
      whole_words_first_(pre_tokenizer_.name() == "llama-bpe"),
      chat_template_(spec.chat_template) {
  set_special_ids(spec);
  set_byte_tokens();
}

Result<Tokenizer> Tokenizer::create(const TokenizerSpec& spec) {
  try {
    return Tokenizer(spec);
  } catch (const Error& error) {
    return Error(error.code(), error.message(), spec.source);
  }
}

void Tokenizer::set_special_ids(const TokenizerSpec& spec) {
  const auto checked = [&](int32_t id, std::string_view name) {
    if (id != kNoToken && (id < 0 || id >= vocab_size())) {
      fail(ErrorCode::kParse, "the {} token is {}, must be 0 to {}", name, id, vocab_size() - 1);
    }
    return id;
  };
  bos_ = checked(spec.bos, "bos");
  eos_ = checked(spec.eos, "eos");
  eot_ = checked(spec.eot, "eot");
  padding_ = checked(spec.padding, "padding");
  unknown_ = checked(spec.unknown, "unknown");
  ends_ = {eos_, eot_, checked(spec.eom, "eom")};
  for (const std::string_view name : kEndNames) ends_.push_back(find_control(name));
  std::sort(ends_.begin(), ends_.end());
  ends_.erase(std::unique(ends_.begin(), ends_.end()), ends_.end());
  std::erase(ends_, kNoToken);
  if (spec.add_bos.value_or(false) && bos_ == kNoToken) {
    fail(ErrorCode::kParse, "a bos token is to be added, but none is given");
  }
  // Llama 3 begins every sequence with its bos token; the other families have none.
  adds_bos_ = bos_ != kNoToken && spec.add_bos.value_or(pre_tokenizer_.name() == "llama-bpe");
}

void Tokenizer::set_byte_tokens() {
  for (size_t byte = 0; byte < byte_tokens_.size(); ++byte) {
    const char c = static_cast<char>(byte);
    int32_t& token = byte_tokens_[byte];
    token = vocabulary_.find_text({&c, 1});
    if (token == kNoToken) token = unknown_;
    if (token == kNoToken) {
      fail(ErrorCode::kParse,
           "byte 0x{:02x} has no token, and there is no unknown token to stand for it", byte);
    }
  }
}

void Tokenizer::check_id(int32_t id) const {
  check_argument(id >= 0 && id < vocab_size(), "token id is {}, must be 0 to {}", id,
                 vocab_size() - 1);
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  check_id(id);
  return vocabulary_.bytes(id);
}

TokenType Tokenizer::token_type(int32_t id) const {
  check_id(id);
  return vocabulary_.type(id);
}

bool Tokenizer::is_control(int32_t id) const {
  check_id(id);
  return vocabulary_.is_control(id);
}

int32_t Tokenizer::find_control(std::string_view text) const {
  const int32_t id = text.empty() ? kNoToken : specials_.longest_at(vocabulary_, text);
  const bool whole = id != kNoToken && vocabulary_.bytes(id).size() == text.size();
  return whole && vocabulary_.is_control(id) ? id : kNoToken;
}

bool Tokenizer::is_end_of_generation(int32_t id) const {
  return std::binary_search(ends_.begin(), ends_.end(), id);
}

std::string Tokenizer::decode(std::span<const int32_t> tokens, bool special) const {
  std::string text;
  for (const int32_t id : tokens) {
    check_id(id);
    if (special || !vocabulary_.is_control(id)) text += vocabulary_.bytes(id);
  }
  return text;
}

}  // namespace freekv
