#include "model/config.hpp"

#include <cmath>
#include <optional>

#include "core/check.hpp"
#include "io/gguf.hpp"

namespace freekv {
namespace {

constexpr uint64_t kMaxSize = uint64_t{1} << 24;  // of any dimension; keeps products in range

template <typename... Args>
[[noreturn]] void refuse(const Gguf& file, ErrorCode code, fmt::format_string<Args...> format,
                         Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...), file.name());
}

/// A dimension under "llama.KEY", 1 to kMaxSize.
int read_size(const Gguf& file, const std::string& key, std::optional<uint64_t> fallback = {}) {
  const uint64_t value = fallback ? file.find_u64(key).value_or(*fallback) : file.get_u64(key);
  if (value < 1 || value > kMaxSize) {
    refuse(file, ErrorCode::kParse, "{} is {}, must be 1 to {}", key, value, kMaxSize);
  }
  return static_cast<int>(value);
}

float read_positive(const Gguf& file, const std::string& key, float fallback) {
  const float value = file.find_f32(key).value_or(fallback);
  if (!std::isfinite(value) || value <= 0) {
    refuse(file, ErrorCode::kParse, "{} is {}, must be above 0", key, value);
  }
  return value;
}

void read_rope_scaling(const Gguf& file, const std::string& prefix, ModelConfig& config) {
  const std::string key = prefix + "rope.scaling.type";
  const auto type = file.find_string(key);
  if (!type || *type == "none") return;
  if (*type != "linear") {
    refuse(file, ErrorCode::kUnsupported, "{} is \"{}\", supported are none and linear", key,
           *type);
  }
  config.rope_scale = read_positive(file, prefix + "rope.scaling.factor", 1);
}

}  // namespace

ModelConfig read_config(const Gguf& file) {
  ModelConfig config;
  config.architecture = file.get_string("general.architecture");
  if (config.architecture != "llama") {
    refuse(file, ErrorCode::kUnsupported,
           "general.architecture is \"{}\", the one supported is \"llama\"", config.architecture);
  }
  config.name = file.find_string("general.name").value_or(config.architecture);

  const std::string prefix = config.architecture + ".";
  config.layers = read_size(file, prefix + "block_count");
  config.hidden = read_size(file, prefix + "embedding_length");
  config.ffn = read_size(file, prefix + "feed_forward_length");
  config.query_heads = read_size(file, prefix + "attention.head_count");
  config.kv_heads = read_size(file, prefix + "attention.head_count_kv",
                              static_cast<uint64_t>(config.query_heads));
  if (config.query_heads % config.kv_heads != 0) {
    refuse(file, ErrorCode::kParse, "{}attention.head_count is {}, must be a multiple of {}'s {}",
           prefix, config.query_heads, "head_count_kv", config.kv_heads);
  }
  if (config.query_heads / config.kv_heads > 16) {
    refuse(file, ErrorCode::kUnsupported, "{} query heads per KV head, at most 16 are supported",
           config.query_heads / config.kv_heads);
  }
  const std::string key_length = prefix + "attention.key_length";
  const std::string value_length = prefix + "attention.value_length";
  if (!file.has(key_length) && config.hidden % config.query_heads != 0) {
    refuse(file, ErrorCode::kParse, "{}embedding_length is {}, must be a multiple of {} heads",
           prefix, config.hidden, config.query_heads);
  }
  config.head_dim =
      read_size(file, key_length, static_cast<uint64_t>(config.hidden / config.query_heads));
  const int value_dim = read_size(file, value_length, static_cast<uint64_t>(config.head_dim));
  if (value_dim != config.head_dim) {
    refuse(file, ErrorCode::kUnsupported, "{} is {} but {} is {}, they must be equal", key_length,
           config.head_dim, value_length, value_dim);
  }
  if (config.head_dim % 8 != 0 || config.head_dim > 256) {
    refuse(file, ErrorCode::kUnsupported, "the head dimension is {}, must be 8, 16, ... 256",
           config.head_dim);
  }
  const int rotated =
      read_size(file, prefix + "rope.dimension_count", static_cast<uint64_t>(config.head_dim));
  if (rotated != config.head_dim) {
    refuse(file, ErrorCode::kUnsupported, "{}rope.dimension_count is {}, must be the head's {}",
           prefix, rotated, config.head_dim);
  }
  config.context_length = read_size(file, prefix + "context_length");
  config.norm_eps = read_positive(file, prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
  config.rope_base = read_positive(file, prefix + "rope.freq_base", 10000);
  read_rope_scaling(file, prefix, config);
  config.vocab = file.tensor("token_embd.weight").rows();
  return config;
}

}  // namespace freekv
