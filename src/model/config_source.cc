#include "model/config_source.hpp"

#include <algorithm>
#include <cmath>

namespace freekv {

int ConfigSource::read_size(const std::string& key, std::optional<int64_t> fallback) const {
  const auto found = find_u64(key);
  if (!found && !fallback) refuse(ErrorCode::kNotFound, "{} is missing", label(key));
  if (found && (*found < 1 || *found > static_cast<uint64_t>(kMaxSize))) {
    refuse(ErrorCode::kParse, "{} is {}, must be 1 to {}", label(key), *found, kMaxSize);
  }
  return static_cast<int>(found ? static_cast<int64_t>(*found) : *fallback);
}

float ConfigSource::read_positive(const std::string& key, std::optional<double> fallback) const {
  const auto found = find_number(key);
  if (!found && !fallback) refuse(ErrorCode::kNotFound, "{} is missing", label(key));
  const double value = found ? *found : *fallback;
  const auto rounded = static_cast<float>(value);
  if (!std::isfinite(rounded) || rounded <= 0) {
    refuse(ErrorCode::kParse, "{} is {}, must be above 0 and finite", label(key), value);
  }
  return rounded;
}

void read_shape(const ConfigSource& source, const ShapeKeys& keys, ModelConfig& config) {
  config.layers = source.read_size(keys.layers);
  config.hidden = source.read_size(keys.hidden);
  config.ffn = source.read_size(keys.ffn);
  config.query_heads = source.read_size(keys.query_heads);
  config.kv_heads = source.read_size(keys.kv_heads, config.query_heads);
  if (config.query_heads % config.kv_heads != 0) {
    source.refuse(ErrorCode::kParse, "{} is {}, must be a multiple of {}, which is {}",
                  source.label(keys.query_heads), config.query_heads, source.label(keys.kv_heads),
                  config.kv_heads);
  }
  if (config.query_heads / config.kv_heads > 16) {
    source.refuse(ErrorCode::kUnsupported,
                  "{} is {} for {} KV heads, at most 16 each are supported",
                  source.label(keys.query_heads), config.query_heads, config.kv_heads);
  }
  if (!source.find_u64(keys.head_dim) && config.hidden % config.query_heads != 0) {
    source.refuse(ErrorCode::kParse, "{} is {}, must be a multiple of {} heads",
                  source.label(keys.hidden), config.hidden, config.query_heads);
  }
  config.head_dim = source.read_size(keys.head_dim, config.hidden / config.query_heads);
  if (config.head_dim % 8 != 0 || config.head_dim > 256) {
    source.refuse(ErrorCode::kUnsupported, "{} is {}, must be 8, 16, ... 256",
                  source.label(keys.head_dim), config.head_dim);
  }
  config.context_length = source.read_size(keys.context);
  config.rope.original_context = config.context_length;
  config.norm_eps = source.read_positive(keys.norm_eps, keys.norm_eps_default);
}

void stretch_context(ModelConfig& config) {
  const auto stretched = [&](int64_t tokens) {
    const double product = static_cast<double>(tokens) * static_cast<double>(config.rope.factor);
    return static_cast<int64_t>(std::clamp(product, 1.0, static_cast<double>(kMaxSize)));
  };
  switch (config.rope.scaling) {
    case RopeScaling::kLinear:
    case RopeScaling::kDynamic:
      config.context_length = stretched(config.context_length);
      break;
    case RopeScaling::kYarn:
      config.context_length =
          std::max(config.context_length, stretched(config.rope.original_context));
      break;
    case RopeScaling::kNone:
    case RopeScaling::kLlama3:
      break;
  }
}

float yarn_attention_factor(double factor, double scale) {
  return static_cast<float>(factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0);
}

}  // namespace freekv
