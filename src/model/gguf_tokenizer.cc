// add_tokenizer_metadata: the keys of the GGUF specification, section "Tokenizer".
#include <algorithm>
#include <unordered_map>

#include "core/check.hpp"
#include "model/gguf_metadata.hpp"

namespace freekv {
namespace {

/// SentencePiece vocabularies are stored with scores in place of merges: of two merges the one
/// whose token scores higher goes first, so a token's score is minus the rank of its first merge.
std::vector<float> scores_of(const TokenizerSpec& spec, size_t count) {
  std::unordered_map<std::string, size_t> ranks;
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const MergeSpelling& merge = spec.merges[rank];
    ranks.emplace(std::string(merge.left) + std::string(merge.right), rank);
  }
  std::vector<float> scores(count, 0);
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    if (id < spec.scores.size()) {
      scores[id] = spec.scores[id];
    } else if (const auto it = ranks.find(std::string(spec.tokens[id])); it != ranks.end()) {
      scores[id] = -static_cast<float>(it->second);
    } else {
      // No merge makes it, so that none must win.
      scores[id] = -static_cast<float>(spec.merges.size() + 1);
    }
  }
  return scores;
}

void add_tokens(GgufWriter& writer, const TokenizerSpec& spec, size_t count) {
  std::vector<std::string> names;  // of the ids without a token
  names.reserve(count);
  std::vector<std::string_view> tokens(count);
  std::vector<int32_t> types(count, static_cast<int32_t>(TokenType::kUnused));
  for (size_t id = 0; id < count; ++id) {
    const bool exists = id < spec.tokens.size() && !spec.tokens[id].empty();
    if (exists) {
      tokens[id] = spec.tokens[id];
      types[id] =
          static_cast<int32_t>(id < spec.types.size() ? spec.types[id] : TokenType::kNormal);
    } else {
      tokens[id] = names.emplace_back(fmt::format("[PAD{}]", id));
    }
  }
  writer.add("tokenizer.ggml.tokens", std::span<const std::string_view>(tokens));
  writer.add("tokenizer.ggml.token_type", std::span<const int32_t>(types));
}

void add_merges(GgufWriter& writer, const TokenizerSpec& spec) {
  std::vector<std::string> merges;
  merges.reserve(spec.merges.size());
  for (const MergeSpelling& merge : spec.merges) {
    merges.push_back(fmt::format("{} {}", merge.left, merge.right));
  }
  const std::vector<std::string_view> views(merges.begin(), merges.end());
  writer.add("tokenizer.ggml.merges", std::span<const std::string_view>(views));
}

void add_ids(GgufWriter& writer, const TokenizerSpec& spec) {
  // The format has three names for tokens that end something.
  int32_t eot = spec.eot, eom = spec.eom;
  for (const int32_t end : spec.ends) {
    if (end == spec.eos || end == eot || end == eom) continue;
    if (eot == kNoToken) {
      eot = end;
    } else if (eom == kNoToken) {
      eom = end;
    }
  }
  const auto add_id = [&](const char* name, int32_t id) {
    if (id == kNoToken) return;
    writer.add(fmt::format("tokenizer.ggml.{}_token_id", name), static_cast<uint32_t>(id));
  };
  add_id("bos", spec.bos);
  add_id("eos", spec.eos);
  add_id("eot", eot);
  add_id("eom", eom);
  add_id("padding", spec.padding);
  add_id("unknown", spec.unknown);
}

}  // namespace

void add_tokenizer_metadata(GgufWriter& writer, const TokenizerSpec& spec, int64_t vocab) {
  const auto count = static_cast<size_t>(vocab);
  if (spec.tokens.size() > count) {
    throw Error(ErrorCode::kParse,
                fmt::format("has {} tokens, vocab_size is {}", spec.tokens.size(), vocab),
                spec.source);
  }
  const bool pieces = spec.spelling == TokenSpelling::kSentencePiece;
  writer.add("tokenizer.ggml.model", pieces ? "llama" : "gpt2");
  writer.add("tokenizer.ggml.pre", pieces ? "default" : spec.pre_tokenizer);
  add_tokens(writer, spec, count);
  if (pieces) {
    const std::vector<float> scores = scores_of(spec, count);
    writer.add("tokenizer.ggml.scores", std::span<const float>(scores));
    writer.add("tokenizer.ggml.add_space_prefix",
               spec.normalizer.space_prefix != SpacePrefix::kNever);
  } else {
    add_merges(writer, spec);
  }
  add_ids(writer, spec);
  if (spec.add_bos) writer.add("tokenizer.ggml.add_bos_token", *spec.add_bos);
  if (spec.chat_template) {
    writer.add("tokenizer.chat_template", std::string_view(*spec.chat_template));
  }
}

}  // namespace freekv
