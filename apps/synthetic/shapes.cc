#include "synthetic/shapes.hpp"

#include <array>

#include "core/check.hpp"

namespace freekv::app {
namespace {

struct Sizes {
  const char* name;
  int layers, hidden, ffn, query_heads, kv_heads, head_dim, vocab;
  float rope_base;
  bool qkv_bias, head_norms;
};

constexpr std::array<Sizes, 6> kShapes = {{
    {"llama-3.1-8b", 32, 4096, 14336, 32, 8, 128, 128256, 5e5f, false, false},
    {"qwen2.5-7b", 28, 3584, 18944, 28, 4, 128, 152064, 1e6f, true, false},
    {"qwen2.5-14b", 48, 5120, 13824, 40, 8, 128, 152064, 1e6f, true, false},
    {"qwen3-8b", 36, 4096, 12288, 32, 8, 128, 151936, 1e6f, false, true},
    {"llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256, 5e5f, false, false},
    {"tiny", 4, 512, 1024, 8, 2, 64, 4096, 1e6f, false, false},  // to try things out
}};

}  // namespace

SyntheticShape find_shape(const std::string& name) {
  for (const Sizes& s : kShapes) {
    if (name != s.name) continue;
    return {.layers = s.layers,
            .hidden = s.hidden,
            .ffn = s.ffn,
            .query_heads = s.query_heads,
            .vocab = s.vocab,
            .kv = {.heads = s.kv_heads, .head_dim = s.head_dim, .page = 32, .dtype = DType::kBF16},
            .rope_base = s.rope_base,
            .qkv_bias = s.qkv_bias,
            .head_norms = s.head_norms};
  }
  fail(ErrorCode::kInvalidArgument, "--shape is \"{}\", must be one of {}", name, shape_names());
}

std::string shape_names() {
  std::string names;
  for (const Sizes& s : kShapes) names += (names.empty() ? "" : ", ") + std::string(s.name);
  return names;
}

}  // namespace freekv::app
