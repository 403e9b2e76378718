// What a tokenizer is made of, whichever file it comes from.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/normalizer.hpp"
#include "tokenizer/vocabulary.hpp"

namespace freekv {

/// Two tokens, as the vocabulary spells them.
struct MergeSpelling {
  std::string_view left;
  std::string_view right;
};

/// How an added token is found in a text, see SpecialToken; tokens of the types kControl and
/// kUserDefined that have no entry are found wherever they are spelt.
struct AddedTokenRule {
  int32_t id = kNoToken;
  bool lstrip = false;
  bool rstrip = false;
  bool single_word = false;
  bool normalized = false;  // looked for after normalization, and normalized itself
};

/// Untrusted. Views are read during Tokenizer::create only.
struct TokenizerSpec {
  std::string source;  // the file, for errors
  /// kByteAlphabet: byte-level BPE, with words by `pre_tokenizer`. kSentencePiece: BPE of
  /// characters, over whole texts, with byte tokens for characters that have no token.
  TokenSpelling spelling = TokenSpelling::kByteAlphabet;
  std::string_view pre_tokenizer = "default";
  NormalizerOptions normalizer;
  bool split_at_spaces = false;          // kSentencePiece: no token goes across a word's start
  bool strip_leading_space = false;      // kSentencePiece: decoding drops the space prefix
  std::vector<std::string_view> tokens;  // by id, spelt as `spelling` says
  std::vector<TokenType> types;          // empty: all kNormal
  std::vector<uint8_t> in_text;          // see Vocabulary::Options
  std::vector<MergeSpelling> merges;     // in order of rank
  /// kSentencePiece without merges: any two tokens whose bytes joined are a token merge, the token
  /// with the highest score first. One for each token.
  std::vector<float> scores;
  std::vector<AddedTokenRule> added;
  // Ids, or kNoToken.
  int32_t bos = kNoToken;  // begins a sequence
  int32_t eos = kNoToken;  // ends a text
  int32_t eot = kNoToken;  // ends a turn
  int32_t eom = kNoToken;  // ends a message within a turn
  int32_t padding = kNoToken;
  int32_t unknown = kNoToken;   // stands for bytes that have no token
  bool fuse_unknown = false;    // one for a run of characters without a token
  std::vector<int32_t> ends;    // what else ends a turn or a text
  std::optional<bool> add_bos;  // when unset, as the model family does
  /// A word that is a token becomes it, whatever the merges say; when unset, as the family does.
  std::optional<bool> whole_words_first;
  std::optional<std::string> chat_template;
};

}  // namespace freekv
