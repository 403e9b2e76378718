// Text to token ids and back: BPE of bytes or of characters, with special tokens.
#pragma once

#include <array>
#include <cstdint>
#include <map>
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
#include "tokenizer/tokenizer_spec.hpp"
#include "tokenizer/vocabulary.hpp"

namespace freekv {

struct EncodeOptions {
  bool add_bos = false;  // begin with bos() if adds_bos()
  /// Recognise control tokens written in the text, else these are text. User-defined tokens always
  /// are recognised, as in Hugging Face tokenizers and llama.cpp.
  bool parse_special = false;
};

/// Immutable once made; calls may run in several threads.
class Tokenizer {
 public:
  /// From tokenizer.ggml.* of a model file. Errors carry the file and name the key: kUnsupported
  /// for another kind of tokenizer or an unknown pre-tokenizer, kParse for anything inconsistent.
  static Result<Tokenizer> from_gguf(const Gguf& gguf);
  /// From tokenizer.json of a Hugging Face checkpoint folder, in the forms that Llama, Mistral,
  /// Qwen and GPT-2 models use, and what stands beside it: tokenizer_config.json,
  /// special_tokens_map.json, generation_config.json, config.json and chat_template.jinja, each
  /// where there is one. Ids are those of Hugging Face `tokenizers`. Errors carry the file and name
  /// the field: kNotFound without tokenizer.json, kUnsupported for a component of another kind,
  /// kParse for anything inconsistent.
  static Result<Tokenizer> from_folder(const std::string& folder);
  /// From the bytes of a tokenizer.json alone; `name` stands for the file in errors.
  static Result<Tokenizer> from_json(std::string_view bytes, const std::string& name);
  static Result<Tokenizer> create(const TokenizerSpec& spec);

  /// Any bytes are text. Linear in text.size() but for a factor log(longest word). Throws
  /// Error(kInvalidArgument) for texts beyond 2^31 - 1 bytes.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;

  /// The bytes of the tokens, joined; control tokens are left out unless `special`. A SentencePiece
  /// vocabulary's space prefix is left out: one space, where the text begins with it. Undoes
  /// encode() for every text of byte-level BPE when the vocabulary has all 256 byte tokens (always
  /// unless unknown() is set) and no normalization; for SentencePiece, for texts without U+2581 and
  /// special tokens. Throws Error(kInvalidArgument) for an id outside the vocabulary.
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
  size_t special_count() const { return specials_.size() + normalized_specials_.size(); }
  /// Whether decode() drops a space at the beginning of a text.
  bool strips_leading_space() const { return strip_leading_space_; }
  /// "spm" for SentencePiece BPE, which takes whole texts.
  std::string_view pre_tokenizer() const;

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

  // token_bytes() of an id that is in the vocabulary.
  std::string_view bytes_of(int32_t id) const;
  // How a SentencePiece text is cut before merging.
  enum class SpaceSplit {
    kNone,
    kBeforeRuns,  // before a run of spaces: no token goes across, so that it changes nothing
    kBeforeEach,
  };

  void check_id(int32_t id) const;
  void set_special_ids(const TokenizerSpec& spec);
  void set_byte_tokens();
  SpaceSplit choose_space_split(const TokenizerSpec& spec) const;

  Vocabulary vocabulary_;
  TokenSpelling spelling_;
  SpecialTokens specials_;             // found in the text as it is
  SpecialTokens normalized_specials_;  // found in what lies between, after normalization
  std::map<int32_t, std::string> normalized_bytes_;  // where those stand for more than their bytes
  BpeMerges merges_;
  PreTokenizer pre_tokenizer_;
  NormalizerOptions normalizer_;
  SpaceSplit space_split_ = SpaceSplit::kNone;
  bool strip_leading_space_ = false;
  std::array<int32_t, 256> byte_tokens_{};
  bool whole_words_first_ = false;
  bool fuse_unknown_ = false;
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
