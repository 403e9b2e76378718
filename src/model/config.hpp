// The shape of a model, read from its file and checked before anything is computed with it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backends/backend.hpp"

namespace freekv {

class Gguf;

/// Differences between architectures are data here; the decode step is the same for all.
struct ModelConfig {
  std::string architecture;
  std::string name;
  int layers = 0;       // L
  int hidden = 0;       // D
  int ffn = 0;          // F
  int query_heads = 0;  // H
  int kv_heads = 0;     // M
  int head_dim = 0;     // d
  int64_t vocab = 0;    // V
  int64_t context_length = 0;
  float norm_eps = 0;
  float rope_base = 0;
  float rope_scale = 1;  // positions are divided by it ("linear" scaling)
  RopeStyle rope_style = RopeStyle::kInterleaved;
};

/// Reads and checks the configuration. Throws Error(kUnsupported) naming the architecture or the
/// feature, Error(kParse) naming the key and both values where sizes do not fit together.
ModelConfig read_config(const Gguf& file);

}  // namespace freekv
