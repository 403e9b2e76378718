// The shape of a model, read from its file and checked before anything is computed with it.
#pragma once

#include <cstdint>
#include <string>

#include "backends/backend.hpp"

namespace freekv {

class Checkpoint;
class Gguf;

enum class RopeScaling : uint8_t { kNone, kLinear, kDynamic, kLlama3, kYarn };

/// Rotary position embedding. The frequencies that each scaling gives: rope.hpp.
struct RopeConfig {
  RopeStyle style = RopeStyle::kInterleaved;
  RopeScaling scaling = RopeScaling::kNone;
  float base = 10000;
  float factor = 1;              // by which scaling stretches the context
  int64_t original_context = 0;  // tokens the unscaled model was made for
  float low_freq_factor = 1;     // llama3: wavelengths above original / low are stretched,
  float high_freq_factor = 4;    // those below original / high are kept
  float beta_fast = 32;          // yarn: dimensions that turn more often than this are kept,
  float beta_slow = 1;           // those that turn less often than this are stretched
  float attention_factor = 1;    // yarn: multiplies cos and sin
};

/// Whether tensors of one kind must be, may be or cannot be in the file.
enum class Presence : uint8_t { kNever, kOptional, kAlways };

/// Differences between architectures are data here; the decode step is the same for all.
struct ModelConfig {
  std::string architecture;  // as GGUF names it: llama (mistral too), qwen2, qwen3
  std::string name;
  int layers = 0;       // L
  int hidden = 0;       // D
  int ffn = 0;          // F
  int query_heads = 0;  // H
  int kv_heads = 0;     // M
  int head_dim = 0;     // d
  int64_t vocab = 0;    // V
  int64_t context_length = 0;
  int64_t sliding_window = 0;  // tokens that some layer sees at most; 0: all layers see all
  float norm_eps = 0;
  RopeConfig rope;
  Presence qkv_bias = Presence::kNever;
  Presence output_bias = Presence::kNever;
  Presence qk_norm = Presence::kNever;           // RMS norms of each head's query and key
  Presence output_matrix = Presence::kOptional;  // kNever: the embedding serves as it
};

/// Reads and checks the configuration. Throws Error(kUnsupported) naming the architecture or the
/// feature, Error(kParse) naming the key and both values where sizes do not fit together.
ModelConfig read_config(const Gguf& file);
ModelConfig read_config(const Checkpoint& folder);

}  // namespace freekv
