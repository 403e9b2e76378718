// Tokenizer::from_gguf: the metadata keys of the GGUF specification, section "Tokenizer".
#include <limits>

#include "core/check.hpp"
#include "io/quote.hpp"
#include "tokenizer/resolve_merges.hpp"
#include "tokenizer/tokenizer.hpp"

namespace freekv {
namespace {

int32_t read_id(const Gguf& gguf, const std::string& name) {
  const std::string key = "tokenizer.ggml." + name;
  const auto id = gguf.find_u64(key);
  if (!id) return kNoToken;
  const size_t tokens = gguf.get_strings("tokenizer.ggml.tokens").size();
  if (*id >= tokens) {
    throw Error(ErrorCode::kParse,
                fmt::format("{} is {}, the vocabulary has {} tokens", key, *id, tokens),
                gguf.name());
  }
  return static_cast<int32_t>(*id);
}

std::vector<TokenType> read_types(const Gguf& gguf) {
  std::vector<TokenType> types;
  const GgufIntArray values = gguf.find_ints("tokenizer.ggml.token_type").value_or(GgufIntArray());
  types.reserve(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    // Range-checked with the vocabulary; here only that the value survives the conversion.
    const int64_t value = values[i];
    types.push_back(static_cast<TokenType>(value < 0 || value > 6 ? 0 : value));
  }
  return types;
}

std::vector<std::string_view> views(const GgufStringArray& strings) {
  return std::vector<std::string_view>(strings.begin(), strings.end());
}

// SentencePiece BPE, by the rules of llama.cpp for what the file does not say.
void read_sentencepiece(const Gguf& gguf, TokenizerSpec& spec) {
  spec.spelling = TokenSpelling::kSentencePiece;
  spec.normalizer.unmark_spaces = true;
  if (gguf.find_bool("tokenizer.ggml.add_space_prefix").value_or(true)) {
    spec.normalizer.space_prefix = SpacePrefix::kAlways;
    spec.strip_leading_space = true;
  }
  const GgufFloatArray scores = gguf.get_floats("tokenizer.ggml.scores");
  spec.scores.reserve(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) spec.scores.push_back(scores[i]);
}

void read_byte_level(const Gguf& gguf, TokenizerSpec& spec) {
  spec.pre_tokenizer = gguf.find_string("tokenizer.ggml.pre").value_or("default");
  const GgufStringArray merges = gguf.get_strings("tokenizer.ggml.merges");
  spec.merges.reserve(merges.size());
  for (const std::string_view merge : merges) {
    spec.merges.push_back(split_merge(merge, spec.merges.size()));
  }
}

TokenizerSpec read_spec(const Gguf& gguf) {
  TokenizerSpec spec;
  spec.source = gguf.name();
  const std::string_view model = gguf.get_string("tokenizer.ggml.model");
  if (model != "gpt2" && model != "llama") {
    fail(ErrorCode::kUnsupported,
         "tokenizer.ggml.model is {}, supported are 'gpt2' (byte-level BPE) and 'llama' "
         "(SentencePiece BPE)",
         quoted(model));
  }
  spec.tokens = views(gguf.get_strings("tokenizer.ggml.tokens"));
  spec.types = read_types(gguf);
  if (model == "llama") {
    read_sentencepiece(gguf, spec);
  } else {
    read_byte_level(gguf, spec);
  }
  spec.bos = read_id(gguf, "bos_token_id");
  spec.eos = read_id(gguf, "eos_token_id");
  spec.eot = read_id(gguf, "eot_token_id");
  spec.eom = read_id(gguf, "eom_token_id");
  spec.padding = read_id(gguf, "padding_token_id");
  spec.unknown = read_id(gguf, "unknown_token_id");
  spec.add_bos = gguf.find_bool("tokenizer.ggml.add_bos_token");
  if (const auto text = gguf.find_string("tokenizer.chat_template")) spec.chat_template = *text;
  return spec;
}

}  // namespace

Result<Tokenizer> Tokenizer::from_gguf(const Gguf& gguf) {
  try {
    return create(read_spec(gguf));
  } catch (const Error& error) {
    return error.where().empty() ? Error(error.code(), error.message(), gguf.name()) : error;
  }
}

}  // namespace freekv
