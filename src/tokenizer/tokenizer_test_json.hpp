// Small tokenizer.json documents for tests and fuzzing.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tokenizer/pre_tokenizer.hpp"
#include "tokenizer/tokenizer_test_vocab.hpp"

namespace freekv {

inline nlohmann::json added_token(int32_t id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// Begins every sequence with one token.
inline nlohmann::json template_processing(const std::string& token, int32_t id) {
  using nlohmann::json;
  const json single = {{{"SpecialToken", {{"id", token}, {"type_id", 0}}}},
                       {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}};
  const json ids = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", json::array()},
          {"special_tokens", {{token, ids}}}};
}

/// SmallVocabulary in the form of Qwen's files.
inline nlohmann::json small_byte_level_json(std::string_view family = "qwen2") {
  using nlohmann::json;
  const SmallVocabulary small;
  json vocab = json::object();
  json added = json::array();
  for (size_t i = 0; i < small.tokens.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    if (small.types[i] == TokenType::kNormal) {
      vocab[small.tokens[i]] = id;
    } else {
      added.push_back(added_token(id, small.tokens[i], small.types[i] == TokenType::kControl));
    }
  }
  std::string expression;
  for (const PreTokenizer::Family& known : PreTokenizer::families()) {
    if (known.name == family) expression = known.expression;
  }
  const json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", expression}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}}},
          {"post_processor", byte_level},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"}, {"unk_token", nullptr}, {"vocab", vocab}, {"merges", small.merges}}}};
}

/// Characters with byte fallback, in the form of Llama 2's files.
inline nlohmann::json small_sentencepiece_json() {
  using nlohmann::json;
  json vocab = json::object();
  const auto add = [&](const std::string& token) {
    const auto id = static_cast<int32_t>(vocab.size());
    vocab[token] = id;
  };
  for (const char* token : {"<unk>", "<s>", "</s>"}) add(token);
  for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte));
  const std::string mark(kSpaceMark);
  for (const std::string& token : {mark, std::string("a"), std::string("b"), mark + "a",
                                   std::string("ab"), mark + "ab", mark + mark, std::string("é")}) {
    add(token);
  }
  json merges = json::array();
  for (const auto& [left, right] : {std::pair{mark, "a"}, {"a", "b"}, {mark + "a", "b"}}) {
    merges.push_back(json::array({left, right}));
  }
  merges.push_back(json::array({mark, mark}));
  const json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", mark}};
  const json back = {{"type", "Replace"}, {"pattern", {{"String", mark}}}, {"content", " "}};
  const json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  const json prepend = {{"type", "Prepend"}, {"prepend", mark}};
  return {
      {"version", "1.0"},
      {"added_tokens",
       {added_token(0, "<unk>", true), added_token(1, "<s>", true), added_token(2, "</s>", true)}},
      {"normalizer", {{"type", "Sequence"}, {"normalizers", {prepend, replace}}}},
      {"pre_tokenizer", nullptr},
      {"post_processor", template_processing("<s>", 1)},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders", {back, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}, strip}}}},
      {"model",
       {{"type", "BPE"},
        {"unk_token", "<unk>"},
        {"fuse_unk", true},
        {"byte_fallback", true},
        {"vocab", vocab},
        {"merges", merges}}}};
}

}  // namespace freekv
