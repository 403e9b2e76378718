#include "model/gguf_metadata.hpp"

#include <array>

#include "core/check.hpp"
#include "model/config_source.hpp"

namespace freekv {
namespace {

/// The numbers of general.file_type (the GGUF specification).
uint32_t file_type(DType type) {
  switch (type) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kQ8_0:
      return 7;
    case DType::kQ5_0:
      return 8;
    case DType::kQ5_1:
      return 9;
    case DType::kBF16:
      return 32;
    default:
      fail(ErrorCode::kUnsupported, "files of type {} are not written", dtype_name(type));
  }
}

void add_rope(GgufWriter& writer, const std::string& prefix, const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  writer.add(prefix + "rope.dimension_count", static_cast<uint32_t>(config.head_dim));
  writer.add(prefix + "rope.freq_base", rope.base);
  const std::string scaling = prefix + "rope.scaling.";
  const auto add_scaling = [&](const char* type) {
    writer.add(scaling + "type", type);
    writer.add(scaling + "factor", rope.factor);
  };
  switch (rope.scaling) {
    case RopeScaling::kNone:
    case RopeScaling::kLlama3:
      return;
    case RopeScaling::kLinear:
      add_scaling("linear");
      return;
    case RopeScaling::kDynamic:
      add_scaling("dynamic");
      return;
    case RopeScaling::kYarn:
      break;
  }
  add_scaling("yarn");
  writer.add(scaling + "original_context_length", static_cast<uint32_t>(rope.original_context));
  writer.add(scaling + "yarn_beta_fast", rope.beta_fast);
  writer.add(scaling + "yarn_beta_slow", rope.beta_slow);
  // Readers multiply it by the factor that the stretch implies.
  const float implied = yarn_attention_factor(static_cast<double>(rope.factor));
  if (rope.attention_factor != implied) {
    writer.add(scaling + "attn_factor", rope.attention_factor / implied);
  }
}

}  // namespace

void add_type_metadata(GgufWriter& writer, DType type) {
  writer.add("general.file_type", file_type(type));
  writer.add("general.quantization_version", uint32_t{2});
}

void add_config_metadata(GgufWriter& writer, const ModelConfig& config) {
  writer.add("general.architecture", config.architecture);
  writer.add("general.type", "model");
  writer.add("general.name", config.name);
  const std::string prefix = config.architecture + ".";
  const auto add_size = [&](const char* key, int64_t value) {
    writer.add(prefix + key, static_cast<uint32_t>(value));
  };
  add_size("block_count", config.layers);
  // Files declare the context before stretching, readers stretch it.
  const bool declared =
      config.rope.scaling == RopeScaling::kLinear || config.rope.scaling == RopeScaling::kDynamic;
  add_size("context_length", declared ? config.rope.original_context : config.context_length);
  add_size("embedding_length", config.hidden);
  add_size("feed_forward_length", config.ffn);
  add_size("vocab_size", config.vocab);
  add_size("attention.head_count", config.query_heads);
  add_size("attention.head_count_kv", config.kv_heads);
  add_size("attention.key_length", config.head_dim);
  add_size("attention.value_length", config.head_dim);
  writer.add(prefix + "attention.layer_norm_rms_epsilon", config.norm_eps);
  if (config.sliding_window > 0) add_size("attention.sliding_window", config.sliding_window);
  add_rope(writer, prefix, config);
}

}  // namespace freekv
