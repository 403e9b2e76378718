// Vocabularies for tests and fuzzing: the published ones in ../shared, and small made-up ones.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "io/gguf_test_file.hpp"
#include "tokenizer/byte_alphabet.hpp"
#include "tokenizer/resolve_merges.hpp"
#include "tokenizer/tokenizer.hpp"

namespace freekv {

/// A vocabulary of all 256 bytes, a few merges, and special tokens; with the strings that the views
/// of TokenizerSpec need to live.
class SmallVocabulary {
 public:
  explicit SmallVocabulary(std::string_view pre_tokenizer = "qwen2") : pre_(pre_tokenizer) {
    for (int byte = 0; byte < 256; ++byte)
      add(spell_bytes(std::string(1, static_cast<char>(byte))));
    for (const auto& [left, right] :
         std::vector<std::pair<std::string, std::string>>{{"a", "a"},
                                                          {"aa", "aa"},
                                                          {"aaaa", "aaaa"},
                                                          {"h", "e"},
                                                          {"l", "l"},
                                                          {"he", "ll"},
                                                          {"hell", "o"},
                                                          {" ", "hello"},
                                                          {"\xf0", "\x9f"},
                                                          {"\xff", "\xff"},
                                                          {" ", " "},
                                                          {"\n", "\n"},
                                                          {"1", "2"}}) {
      add(spell_bytes(left + right));
      merges.push_back(spell_bytes(left) + " " + spell_bytes(right));
    }
    for (const std::string_view special : {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}) {
      add(std::string(special), TokenType::kControl);
    }
    add("<tool>", TokenType::kUserDefined);
    add("<tool>s", TokenType::kUserDefined);
  }

  TokenizerSpec spec() const {
    TokenizerSpec spec;
    spec.source = "small";
    spec.pre_tokenizer = pre_;
    spec.tokens.assign(tokens.begin(), tokens.end());
    spec.types = types;
    for (const std::string& merge : merges) {
      spec.merges.push_back(split_merge(merge, spec.merges.size()));
    }
    spec.bos = spec.eos = id_of("<|endoftext|>");
    return spec;
  }

  /// The id of a token as it is spelt.
  int32_t id_of(std::string_view token) const {
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] == token) return static_cast<int32_t>(i);
    }
    return kNoToken;
  }

  /// The same vocabulary as the metadata of a model file.
  GgufTestFile file() const {
    GgufTestFile file;
    file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre_);
    file.texts("tokenizer.ggml.tokens", tokens).texts("tokenizer.ggml.merges", merges);
    std::vector<int32_t> numbers;
    for (const TokenType type : types) numbers.push_back(static_cast<int32_t>(type));
    file.array<int32_t>("tokenizer.ggml.token_type", numbers);
    file.scalar<uint32_t>("tokenizer.ggml.bos_token_id",
                          static_cast<uint32_t>(id_of("<|endoftext|>")));
    file.scalar<uint32_t>("tokenizer.ggml.eos_token_id",
                          static_cast<uint32_t>(id_of("<|im_end|>")));
    file.text("tokenizer.chat_template", "{{ messages }}");
    return file;
  }

  void add(std::string token, TokenType type = TokenType::kNormal) {
    tokens.push_back(std::move(token));
    types.push_back(type);
  }

  std::vector<std::string> tokens;
  std::vector<TokenType> types;
  std::vector<std::string> merges;

 private:
  std::string pre_;
};

/// SentencePiece BPE with scores, as the metadata of a model file.
inline GgufTestFile small_sentencepiece_file() {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(fmt::format("<0x{:02X}>", byte));
    types.push_back(6);
  }
  const std::string mark(kSpaceMark);
  for (const std::string& piece : {mark + "a", mark + mark, std::string("ab"), mark + "ab", mark,
                                   std::string("a"), std::string("b"), std::string("<tool>")}) {
    tokens.push_back(piece);
    types.push_back(piece == "<tool>" ? 4 : 1);
  }
  std::vector<float> scores;
  for (size_t i = 0; i < tokens.size(); ++i) {
    scores.push_back(i < 259 ? 0.0f : -static_cast<float>(i - 259));
  }
  GgufTestFile file;
  file.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", tokens);
  file.array<float>("tokenizer.ggml.scores", scores);
  file.array<int32_t>("tokenizer.ggml.token_type", types);
  file.scalar<uint32_t>("tokenizer.ggml.bos_token_id", 1);
  file.scalar<uint32_t>("tokenizer.ggml.eos_token_id", 2);
  file.scalar<uint32_t>("tokenizer.ggml.unknown_token_id", 0);
  return file;
}

}  // namespace freekv
