#include "tokenizer/tokenizer.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/check.hpp"
#include "tokenizer/resolve_merges.hpp"

namespace freekv {
namespace {

// The ends of a turn or of a text in common chat formats, which files do not always name by key.
constexpr auto kEndNames = std::to_array<std::string_view>(
    {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>"});

// The tokens that texts may spell out, those looked for before or after normalization.
std::vector<SpecialToken> special_tokens(const TokenizerSpec& spec, bool normalized) {
  std::vector<AddedTokenRule> rules(spec.types.size());
  for (const AddedTokenRule& rule : spec.added) {
    if (rule.id < 0 || static_cast<size_t>(rule.id) >= rules.size()) {
      fail(ErrorCode::kParse, "added token {} is not below the {} token types", rule.id,
           rules.size());
    }
    rules[static_cast<size_t>(rule.id)] = rule;
  }
  std::vector<SpecialToken> tokens;
  for (size_t i = 0; i < rules.size(); ++i) {
    const bool control =
        spec.types[i] == TokenType::kControl || spec.types[i] == TokenType::kUnknown;
    if (!control && spec.types[i] != TokenType::kUserDefined) continue;
    const AddedTokenRule& rule = rules[i];
    if (rule.normalized != normalized) continue;
    std::string text(spec.tokens[i]);
    if (normalized && !spec.normalizer.metaspace && !text.empty()) {
      text = freekv::normalized(text, spec.normalizer, true).value_or(text);
    }
    tokens.push_back({std::move(text), static_cast<int32_t>(i), control, rule.lstrip, rule.rstrip,
                      rule.single_word});
  }
  return tokens;
}

}  // namespace

Tokenizer::Tokenizer(const TokenizerSpec& spec)
    : vocabulary_(spec.tokens, spec.types, {spec.spelling, spec.in_text}),
      spelling_(spec.spelling),
      specials_(special_tokens(spec, false)),
      normalized_specials_(special_tokens(spec, true)),
      merges_(resolve_merges(spec, vocabulary_)),
      pre_tokenizer_(PreTokenizer::create(spec.pre_tokenizer).value()),
      normalizer_(spec.normalizer),
      strip_leading_space_(spec.strip_leading_space),
      whole_words_first_(
          spec.whole_words_first.value_or(spelling_ == TokenSpelling::kByteAlphabet &&
                                          pre_tokenizer_.family().whole_words_and_bos)),
      fuse_unknown_(spec.fuse_unknown),
      chat_template_(spec.chat_template) {
  for (const SpecialToken& token : normalized_specials_.tokens()) {
    if (token.text != vocabulary_.bytes(token.id)) normalized_bytes_[token.id] = token.text;
  }
  set_special_ids(spec);
  set_byte_tokens();
  space_split_ = choose_space_split(spec);
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
  for (const int32_t end : spec.ends) ends_.push_back(checked(end, "end of generation"));
  for (const std::string_view name : kEndNames) ends_.push_back(find_control(name));
  std::sort(ends_.begin(), ends_.end());
  ends_.erase(std::unique(ends_.begin(), ends_.end()), ends_.end());
  std::erase(ends_, kNoToken);
  if (spec.add_bos.value_or(false) && bos_ == kNoToken) {
    fail(ErrorCode::kParse, "a bos token is to be added, but none is given");
  }
  const bool family_adds =
      spelling_ == TokenSpelling::kSentencePiece || pre_tokenizer_.family().whole_words_and_bos;
  adds_bos_ = bos_ != kNoToken && spec.add_bos.value_or(family_adds);
}

void Tokenizer::set_byte_tokens() {
  byte_tokens_.fill(kNoToken);
  const bool pieces = spelling_ == TokenSpelling::kSentencePiece;
  for (int32_t id = vocab_size() - 1; pieces && id >= 0; --id) {
    if (vocabulary_.type(id) != TokenType::kByte) continue;
    byte_tokens_[static_cast<uint8_t>(vocabulary_.bytes(id)[0])] = id;
  }
  for (size_t byte = 0; byte < byte_tokens_.size(); ++byte) {
    const char c = static_cast<char>(byte);
    int32_t& token = byte_tokens_[byte];
    if (!pieces) token = vocabulary_.find_text({&c, 1});
    if (token != kNoToken) continue;
    if (unknown_ == kNoToken) {
      fail(ErrorCode::kParse,
           "byte 0x{:02x} has no token, and there is no unknown token to stand for it", byte);
    }
    if (!pieces) token = unknown_;
  }
}

Tokenizer::SpaceSplit Tokenizer::choose_space_split(const TokenizerSpec& spec) const {
  if (spelling_ != TokenSpelling::kSentencePiece) return SpaceSplit::kNone;
  if (spec.split_at_spaces) return SpaceSplit::kBeforeEach;
  // A whole text may be a token, and then its parts must not be taken for whole.
  if (whole_words_first_) return SpaceSplit::kNone;
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const std::string_view bytes = vocabulary_.bytes(id);
    for (size_t i = 1; i < bytes.size(); ++i) {
      if (bytes[i] == ' ' && bytes[i - 1] != ' ') return SpaceSplit::kNone;
    }
  }
  return SpaceSplit::kBeforeRuns;
}

void Tokenizer::check_id(int32_t id) const {
  check_argument(id >= 0 && id < vocab_size(), "token id is {}, must be 0 to {}", id,
                 vocab_size() - 1);
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  check_id(id);
  return bytes_of(id);
}

std::string_view Tokenizer::bytes_of(int32_t id) const {
  if (!normalized_bytes_.empty()) {
    if (const auto it = normalized_bytes_.find(id); it != normalized_bytes_.end()) {
      return it->second;
    }
  }
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
  for (int32_t id = 0; id < vocab_size(); ++id) {
    if (vocabulary_.is_control(id) && vocabulary_.bytes(id) == text) return id;
  }
  return kNoToken;
}

std::string_view Tokenizer::pre_tokenizer() const {
  return spelling_ == TokenSpelling::kSentencePiece ? "spm" : pre_tokenizer_.name();
}

bool Tokenizer::is_end_of_generation(int32_t id) const {
  return std::binary_search(ends_.begin(), ends_.end(), id);
}

std::string Tokenizer::decode(std::span<const int32_t> tokens, bool special) const {
  std::string text;
  for (const int32_t id : tokens) {
    check_id(id);
    if (special || !vocabulary_.is_control(id)) text += bytes_of(id);
  }
  if (strip_leading_space_ && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

}  // namespace freekv
