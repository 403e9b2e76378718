// read_config of a GGUF file: the keys of the GGUF specification and of llama.cpp's converter.
#include <algorithm>
#include <array>

#include "io/gguf.hpp"
#include "io/quote.hpp"
#include "model/config_source.hpp"

namespace freekv {
namespace {

class GgufConfig final : public ConfigSource {
 public:
  explicit GgufConfig(const Gguf& file) : file_(file) {}
  const std::string& file() const override { return file_.name(); }
  std::string label(const std::string& key) const override { return key; }
  std::optional<uint64_t> find_u64(const std::string& key) const override {
    return file_.find_u64(key);
  }
  std::optional<double> find_number(const std::string& key) const override {
    return file_.find_f32(key);
  }

 private:
  const Gguf& file_;
};

/// What an architecture adds to the common shape.
struct GgufArchitecture {
  std::string_view name;
  RopeStyle rope;
  Presence qkv_bias, output_bias, qk_norm;
};

constexpr std::array<GgufArchitecture, 3> kArchitectures = {{
    // Llamas and Mistrals; their converter reorders the rows of q and k into pairs.
    {"llama", RopeStyle::kInterleaved, Presence::kOptional, Presence::kOptional, Presence::kNever},
    {"qwen2", RopeStyle::kHalves, Presence::kAlways, Presence::kNever, Presence::kNever},
    {"qwen3", RopeStyle::kHalves, Presence::kOptional, Presence::kOptional, Presence::kAlways},
}};

const GgufArchitecture& find_architecture(const Gguf& file) {
  const std::string_view name = file.get_string("general.architecture");
  const auto* found = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                                   [&](const GgufArchitecture& a) { return a.name == name; });
  if (found == kArchitectures.end()) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("general.architecture is {}, supported are llama, qwen2 and qwen3",
                            quoted(name)),
                file.name());
  }
  return *found;
}

void check_head(const ConfigSource& source, const std::string& prefix, const ModelConfig& config) {
  for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
    const int value = source.read_size(prefix + key, config.head_dim);
    if (value == config.head_dim) continue;
    source.refuse(ErrorCode::kUnsupported, "{}{} is {}, must be the head dimension {}", prefix, key,
                  value, config.head_dim);
  }
}

void read_rope(const Gguf& file, const ConfigSource& source, const std::string& prefix,
               ModelConfig& config) {
  RopeConfig& rope = config.rope;
  rope.base = source.read_positive(prefix + "rope.freq_base", 10000);
  const std::string scaling = prefix + "rope.scaling.";
  const std::string_view type = file.find_string(scaling + "type").value_or("none");
  if (type == "none") return;
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
  } else if (type == "dynamic") {
    rope.scaling = RopeScaling::kDynamic;
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::kYarn;
  } else {
    source.refuse(ErrorCode::kUnsupported,
                  "{}type is {}, supported are none, linear, dynamic and yarn", scaling,
                  quoted(type));
  }
  rope.factor = source.read_positive(scaling + "factor");
  if (rope.scaling != RopeScaling::kYarn) return;
  rope.original_context =
      source.read_size(scaling + "original_context_length", config.context_length);
  rope.beta_fast = source.read_positive(scaling + "yarn_beta_fast", rope.beta_fast);
  rope.beta_slow = source.read_positive(scaling + "yarn_beta_slow", rope.beta_slow);
  // The file's factor comes on top of the one that the stretch implies.
  const float extra = source.read_positive(scaling + "attn_factor",
                                           source.read_positive(scaling + "yarn_attn_factor", 1));
  rope.attention_factor = extra * yarn_attention_factor(static_cast<double>(rope.factor));
}

}  // namespace

ModelConfig read_config(const Gguf& file) {
  const GgufArchitecture& architecture = find_architecture(file);
  const GgufConfig source(file);
  const std::string prefix = std::string(architecture.name) + ".";
  ModelConfig config;
  config.architecture = architecture.name;
  config.name = file.find_string("general.name").value_or(architecture.name);
  config.qkv_bias = architecture.qkv_bias;
  config.output_bias = architecture.output_bias;
  config.qk_norm = architecture.qk_norm;
  read_shape(source,
             {.layers = prefix + "block_count",
              .hidden = prefix + "embedding_length",
              .ffn = prefix + "feed_forward_length",
              .query_heads = prefix + "attention.head_count",
              .kv_heads = prefix + "attention.head_count_kv",
              .head_dim = prefix + "attention.key_length",
              .context = prefix + "context_length",
              .norm_eps = prefix + "attention.layer_norm_rms_epsilon"},
             config);
  check_head(source, prefix, config);
  config.sliding_window = static_cast<int64_t>(std::min(
      source.find_u64(prefix + "attention.sliding_window").value_or(0), uint64_t{1} << 62));
  config.rope.style = architecture.rope;
  read_rope(file, source, prefix, config);
  stretch_context(config);
  config.vocab = file.tensor("token_embd.weight").rows();
  return config;
}

}  // namespace freekv
