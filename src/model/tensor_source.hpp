// Tensors by name, from whichever kind of file, and what each kind calls the tensors of a model.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.hpp"

namespace freekv {

class Checkpoint;
class Gguf;

/// A tensor of a type this library computes with; a vector has one row.
struct SourceTensor {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const std::byte* data = nullptr;  // aligned to nothing
  size_t bytes = 0;
  const std::string* file = nullptr;  // for errors
};

/// Names of a layer's tensors follow its prefix, layer_prefix + number + ".".
struct TensorNames {
  std::string_view embedding, final_norm, logits, rope_factors;
  std::string_view layer_prefix;
  std::string_view attention_norm, ffn_norm;
  std::string_view q, k, v, output;  // each with ".weight", and ".bias" where there is one
  std::string_view q_norm, k_norm;
  std::string_view gate, up, down;
  std::string_view ignored_suffix;  // of tensors that hold nothing of their own
};

inline constexpr TensorNames kGgufNames = {.embedding = "token_embd.weight",
                                           .final_norm = "output_norm.weight",
                                           .logits = "output.weight",
                                           .rope_factors = "rope_freqs.weight",
                                           .layer_prefix = "blk.",
                                           .attention_norm = "attn_norm.weight",
                                           .ffn_norm = "ffn_norm.weight",
                                           .q = "attn_q",
                                           .k = "attn_k",
                                           .v = "attn_v",
                                           .output = "attn_output",
                                           .q_norm = "attn_q_norm.weight",
                                           .k_norm = "attn_k_norm.weight",
                                           .gate = "ffn_gate.weight",
                                           .up = "ffn_up.weight",
                                           .down = "ffn_down.weight",
                                           .ignored_suffix = "attn_rot_embd.weight"};

inline constexpr TensorNames kCheckpointNames = {.embedding = "model.embed_tokens.weight",
                                                 .final_norm = "model.norm.weight",
                                                 .logits = "lm_head.weight",
                                                 .rope_factors = "",
                                                 .layer_prefix = "model.layers.",
                                                 .attention_norm = "input_layernorm.weight",
                                                 .ffn_norm = "post_attention_layernorm.weight",
                                                 .q = "self_attn.q_proj",
                                                 .k = "self_attn.k_proj",
                                                 .v = "self_attn.v_proj",
                                                 .output = "self_attn.o_proj",
                                                 .q_norm = "self_attn.q_norm.weight",
                                                 .k_norm = "self_attn.k_norm.weight",
                                                 .gate = "mlp.gate_proj.weight",
                                                 .up = "mlp.up_proj.weight",
                                                 .down = "mlp.down_proj.weight",
                                                 .ignored_suffix = "rotary_emb.inv_freq"};

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const std::string& path() const = 0;
  virtual const TensorNames& names() const = 0;
  /// nullopt when absent; throws Error(kUnsupported) naming tensor and type when this library does
  /// not compute with it.
  virtual std::optional<SourceTensor> find(const std::string& name) const = 0;
  /// Of all tensors, in no particular order.
  virtual std::vector<std::string_view> all_names() const = 0;
};

/// The files must outlive the source and its tensors.
std::unique_ptr<TensorSource> tensor_source(const Gguf& file);
std::unique_ptr<TensorSource> tensor_source(const Checkpoint& folder);

}  // namespace freekv
