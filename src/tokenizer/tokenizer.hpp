// Text to token ids and back: byte-level BPE with special tokens.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "freekv/error.hpp"
#include "io/gguf.hpp"
#include "tokenizer/bpe_merges.hpp"
#include "tokenizer/pre_tokenizer.hpp"
#include "tokenizer/special_tokens.hpp"
#include "tokenizer/vocabulary.hpp"

namespace freekv {

/// What a tokenizer is made of, untrusted. Views are read during Tokenizer::create only.
struct TokenizerSpec {
  std::string source;  // the file, for errors
  std::string_view pre_tokenizer = "default";
  std::vector<std::string_view> tokens;  // by id, in the byte alphabet's spelling
  std::vector<TokenType> types;          // empty: all kNormal
  std::vector<std::string_view> merges;  // "left right", in order of rank
  // Ids, or kNoToken.
  int32_t bos = kNoToken;  // begins a sequence
  int32_t eos = kNoToken;  // ends a text
  int32_t eot = kNoToken;  // ends a turn
  int32_t eom = kNoToken;  // ends a message within a turn
  int32_t padding = kNoToken;
  int32_t unknown = kNoToken;   // stands for bytes that have no token
  std::optional<bool> add_bos;  // when unset, as the model family does
  std::optional<std::string> chat_template;
};

struct EncodeOptions {
  bool add_bos = false;        // begin with bos() if adds_bos()
  bool parse_special = false;  // recognise special tokens written in the text, else they are text
};

/// Immutable once made; calls may run in several threads.
class Tokenizer {
 public:
  /// From tokenizer.ggml.* of a model file. Errors carry the file and name the key: kUnsupported
  /// for another kind of tokenizer or an unknown pre-tokenizer, kParse for anything inconsistent.
  static Result<Tokenizer> from_gguf(const Gguf& gguf);
  static Result<Tokenizer> create(const TokenizerSpec& spec);

  /// Any bytes are text. Linear in text.size() but for a factor log(longest word). Throws
  /// Error(kInvalidArgument) for texts beyond 2^31 - 1 bytes.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;

  /// The bytes of the tokens, joined; control tokens are left out unless `special`. Undoes encode()
  /// for every text when the vocabulary has all 256 byte tokens (always unless unknown() is set).
  /// Throws Error(kInvalidArgument) for an id outside the vocabulary.
  std::string decode(std::span<const int32_t> tokens, bool special = false) const;

  /// Bytes that a token stands for, control tokens included; throws as decode(). Lives as long as
  /// the tokenizer stays where it is.
  std::string_view token_bytes(int32_t id) const;
  TokenType token_type(int32_t id) const;
  /// Whether the token stands for no text: decode() leaves it out.
  bool is_control(int32_t id) const;
  /// The control token written so ("<|im_start|>"), or kNoToken.
  int32_t find_control(std::string_view text) const;

  int32_t vocab_size() const { return vocabulary_.size(); }
  size_t merge_count() const { return merges_.size(); }
  size_t special_count() const { return specials_.size(); }
  std::string_view pre_tokenizer() const { return pre_tokenizer_.name(); }

  // Ids, or kNoToken.
  int32_t bos() const { return bos_; }
  int32_t eos() const { return eos_; }
  int32_t eot() const { return eot_; }
  int32_t padding() const { return padding_; }
  int32_t unknown() const { return unknown_; }
  /// Whether the model expects bos() before every sequence.
  bool adds_bos() const { return adds_bos_; }
  /// eos, eot, eom, and the control tokens that common chat formats end a turn with.
  bool is_end_of_generation(int32_t id) const;
  std::span<const int32_t> end_of_generation() const { return ends_; }

  /// Jinja source, as in the file.
  const std::optional<std::string>& chat_template() const { return chat_template_; }

 private:
  explicit Tokenizer(const TokenizerSpec& spec);
  class Encoder;

  static std::vector<BpeMerge> resolve_merges(const std::vector<std::string_view>& merges,
                                              const Vocabulary& vocabulary);
  void check_id(int32_t id) const;
  void set_special_ids(const TokenizerSpec& spec);
  void set_byte_tokens();

  Vocabulary vocabulary_;
  SpecialTokens specials_;
  BpeMerges merges_;
  PreTokenizer pre_tokenizer_;
  std::array<int32_t, 256> byte_tokens_{};
  bool whole_words_first_ = false;  // a word that is a token becomes it, whatever the merges say
  bool adds_bos_ = false;
  int32_t bos_ = kNoToken;
  int32_t eos_ = kNoToken;
  int32_t eot_ = kNoToken;
  int32_t padding_ = kNoToken;
  int32_t unknown_ = kNoToken;
  std::vector<int32_t> ends_;  // ascending
  std::optional<std::string> chat_template_;
};

}  // namespace freekv
