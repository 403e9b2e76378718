// read_config of a checkpoint folder: the fields of config.json as transformers writes them, in the
// forms of its versions 4 (rope_theta, rope_scaling) and 5 (rope_parameters).
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include "io/checkpoint.hpp"
#include "io/quote.hpp"
#include "model/config_source.hpp"

namespace freekv {
namespace {

class JsonConfig final : public ConfigSource {
 public:
  explicit JsonConfig(JsonObject object) : object_(std::move(object)) {}
  const std::string& file() const override { return object_.source(); }
  std::string label(const std::string& key) const override { return object_.label(key); }
  std::optional<uint64_t> find_u64(const std::string& key) const override {
    return object_.find_u64(key);
  }
  std::optional<double> find_number(const std::string& key) const override {
    return object_.find_number(key);
  }
  const JsonObject& object() const { return object_; }

 private:
  JsonObject object_;
};

enum class Window : uint8_t { kNever, kAllLayers, kUpperLayers };

struct CheckpointArchitecture {
  std::string_view name;  // in architectures[0]
  std::string_view gguf;
  bool qkv_bias;        // always; otherwise as attention_bias says, with an output bias then
  bool attention_bias;  // whether the field counts
  bool qk_norm;
  Window window;
};

constexpr std::array<CheckpointArchitecture, 4> kArchitectures = {{
    {"LlamaForCausalLM", "llama", false, true, false, Window::kNever},
    {"MistralForCausalLM", "llama", false, false, false, Window::kAllLayers},
    {"Qwen2ForCausalLM", "qwen2", true, false, false, Window::kUpperLayers},
    {"Qwen3ForCausalLM", "qwen3", false, true, true, Window::kUpperLayers},
}};

const CheckpointArchitecture& find_architecture(const JsonConfig& source) {
  const auto names = source.object().find_strings("architectures");
  if (!names || names->empty()) {
    source.refuse(ErrorCode::kNotFound, "architectures is missing");
  }
  const auto* found =
      std::find_if(kArchitectures.begin(), kArchitectures.end(),
                   [&](const CheckpointArchitecture& a) { return a.name == names->front(); });
  if (found == kArchitectures.end()) {
    source.refuse(ErrorCode::kUnsupported,
                  "architectures is {}, supported are LlamaForCausalLM, MistralForCausalLM, "
                  "Qwen2ForCausalLM and Qwen3ForCausalLM",
                  freekv::quoted(names->front()));
  }
  return *found;
}

/// Fields that change what is computed, in ways that are not implemented.
void refuse_features(const JsonConfig& source) {
  const JsonObject& object = source.object();
  if (object.has("quantization_config")) {
    source.refuse(ErrorCode::kUnsupported,
                  "quantization_config is set, supported are F32, F16 and BF16 weights");
  }
  if (object.find_bool("mlp_bias").value_or(false)) {
    source.refuse(ErrorCode::kUnsupported, "mlp_bias is true, supported is false");
  }
  const std::string activation = object.find_string("hidden_act").value_or("silu");
  if (activation != "silu") {
    source.refuse(ErrorCode::kUnsupported, "hidden_act is {}, supported is 'silu'",
                  freekv::quoted(activation));
  }
}

int64_t read_window(const JsonConfig& source, Window window, int layers) {
  const JsonObject& object = source.object();
  if (window == Window::kNever || !object.find_u64("sliding_window")) return 0;
  if (window == Window::kUpperLayers) {
    if (!object.find_bool("use_sliding_window").value_or(false)) return 0;
    if (const auto types = object.find_strings("layer_types")) {
      const bool any = std::find(types->begin(), types->end(), "sliding_attention") != types->end();
      if (!any) return 0;
    } else if (object.find_u64("max_window_layers").value_or(0) >= static_cast<uint64_t>(layers)) {
      return 0;
    }
  }
  return source.read_size("sliding_window");
}

RopeScaling read_scaling(const JsonConfig& rope) {
  const auto name = rope.object().find_string("rope_type");
  const std::string key = name ? "rope_type" : "type";  // the older name
  const std::string type = name ? *name : rope.object().find_string("type").value_or("default");
  if (type == "default") return RopeScaling::kNone;
  if (type == "linear") return RopeScaling::kLinear;
  if (type == "dynamic") return RopeScaling::kDynamic;
  if (type == "llama3") return RopeScaling::kLlama3;
  if (type == "yarn") return RopeScaling::kYarn;
  rope.refuse(ErrorCode::kUnsupported,
              "{} is {}, supported are default, linear, dynamic, llama3 and yarn", rope.label(key),
              freekv::quoted(type));
}

void read_llama3(const JsonConfig& source, RopeConfig& rope) {
  rope.low_freq_factor = source.read_positive("low_freq_factor");
  rope.high_freq_factor = source.read_positive("high_freq_factor");
  if (rope.low_freq_factor >= rope.high_freq_factor) {
    source.refuse(ErrorCode::kParse, "{} is {}, must be below high_freq_factor {}",
                  source.label("low_freq_factor"), rope.low_freq_factor, rope.high_freq_factor);
  }
}

void read_yarn(const JsonConfig& source, RopeConfig& rope) {
  if (!source.object().find_bool("truncate").value_or(true)) {
    source.refuse(ErrorCode::kUnsupported, "{} is false, supported is true",
                  source.label("truncate"));
  }
  rope.beta_fast = source.read_positive("beta_fast", 32);
  rope.beta_slow = source.read_positive("beta_slow", 1);
  const auto factor = static_cast<double>(rope.factor);
  const auto scale = source.find_number("mscale"), all = source.find_number("mscale_all_dim");
  rope.attention_factor =
      scale.value_or(0) != 0 && all.value_or(0) != 0
          ? yarn_attention_factor(factor, *scale) / yarn_attention_factor(factor, *all)
          : yarn_attention_factor(factor);
  rope.attention_factor =
      source.read_positive("attention_factor", static_cast<double>(rope.attention_factor));
}

void refuse_partial_rotation(const JsonConfig& source) {
  const double rotated = source.find_number("partial_rotary_factor").value_or(1);
  if (rotated == 1) return;
  source.refuse(ErrorCode::kUnsupported, "{} is {}, supported is 1",
                source.label("partial_rotary_factor"), rotated);
}

void read_rope(const JsonConfig& source, ModelConfig& config) {
  auto parameters = source.object().find_object("rope_parameters");
  if (!parameters) parameters = source.object().find_object("rope_scaling");
  RopeConfig& rope = config.rope;
  rope.style = RopeStyle::kHalves;
  rope.base = source.read_positive("rope_theta", 10000);
  refuse_partial_rotation(source);
  if (!parameters) return;

  const JsonConfig scaled(*parameters);
  refuse_partial_rotation(scaled);
  rope.base = scaled.read_positive("rope_theta", static_cast<double>(rope.base));
  rope.scaling = read_scaling(scaled);
  if (rope.scaling == RopeScaling::kNone) return;
  if (rope.scaling == RopeScaling::kLlama3 || rope.scaling == RopeScaling::kYarn) {
    rope.original_context = scaled.read_size(
        "original_max_position_embeddings",
        source.read_size("original_max_position_embeddings", config.context_length));
  }
  rope.factor = rope.scaling == RopeScaling::kYarn
                    ? scaled.read_positive("factor", static_cast<double>(config.context_length) /
                                                         static_cast<double>(rope.original_context))
                    : scaled.read_positive("factor");
  if (rope.scaling == RopeScaling::kLlama3) read_llama3(scaled, rope);
  if (rope.scaling == RopeScaling::kYarn) read_yarn(scaled, rope);
}

}  // namespace

ModelConfig read_config(const Checkpoint& folder) {
  const JsonConfig source(folder.config());
  const CheckpointArchitecture& architecture = find_architecture(source);
  refuse_features(source);
  ModelConfig config;
  config.architecture = architecture.gguf;
  // A trailing slash leaves an empty last component.
  const auto path = std::filesystem::path(folder.folder()).lexically_normal();
  config.name = (path.has_filename() ? path : path.parent_path()).filename().string();
  read_shape(source,
             {.layers = "num_hidden_layers",
              .hidden = "hidden_size",
              .ffn = "intermediate_size",
              .query_heads = "num_attention_heads",
              .kv_heads = "num_key_value_heads",
              .head_dim = "head_dim",
              .context = "max_position_embeddings",
              .norm_eps = "rms_norm_eps",
              .norm_eps_default = 1e-6},
             config);
  config.vocab = source.read_size("vocab_size");

  const auto present = [](bool always) { return always ? Presence::kAlways : Presence::kNever; };
  const bool bias =
      architecture.attention_bias && source.object().find_bool("attention_bias").value_or(false);
  config.qkv_bias = present(architecture.qkv_bias || bias);
  config.output_bias = present(bias);
  config.qk_norm = present(architecture.qk_norm);
  config.output_matrix = present(!source.object().find_bool("tie_word_embeddings").value_or(false));
  config.sliding_window = read_window(source, architecture.window, config.layers);
  read_rope(source, config);
  stretch_context(config);
  return config;
}

}  // namespace freekv
