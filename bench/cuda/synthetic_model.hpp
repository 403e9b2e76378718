// Shapes of known models and weights for them, made up on the device: what the CUDA benchmarks
// measure.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/decoder.hpp"
#include "backends/cuda/synthetic.hpp"
#include "core/check.hpp"
#include "kvcache/page_layout.hpp"

namespace freekv::bench {

using namespace freekv::cuda;

struct NamedShape {
  const char* name;
  DecoderShape shape;
  float rope_base;
  bool bias;  // of q, k and v
};

inline DecoderShape make_shape(int layers, int hidden, int ffn, int heads, int kv_heads, int dim,
                               int vocab) {
  return {.layers = layers,
          .hidden = hidden,
          .ffn = ffn,
          .vocab = vocab,
          .norm_eps = 1e-5f,
          .rope = Rope::kHalves,
          .kv = {kv_heads, heads / kv_heads, dim, 32, KvType::kBF16}};
}

inline const std::vector<NamedShape>& shapes() {
  // Sizes from the models' published configurations. qwen3's norms of q and k are left out: they
  // are vectors of one head.
  static const std::vector<NamedShape> all{
      {"llama-3.1-8b", make_shape(32, 4096, 14336, 32, 8, 128, 128256), 5e5f, false},
      {"qwen2.5-7b", make_shape(28, 3584, 18944, 28, 4, 128, 152064), 1e6f, true},
      {"qwen2.5-14b", make_shape(48, 5120, 13824, 40, 8, 128, 152064), 1e6f, true},
      {"qwen3-8b", make_shape(36, 4096, 12288, 32, 8, 128, 151936), 1e6f, false},
      {"llama-3.2-1b", make_shape(16, 2048, 8192, 32, 8, 64, 128256), 5e5f, false},
      {"tiny", make_shape(4, 512, 1024, 8, 2, 64, 4096), 1e6f, false}};
  return all;
}

/// Throws Error(kInvalidArgument) for a name that is not there.
inline const NamedShape& find_shape(const std::string& name) {
  const auto& all = shapes();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const NamedShape& s) { return name == s.name; });
  check_argument(found != all.end(), "shape is \"{}\", see --help", name);
  return *found;
}

/// All weights in one piece of device memory.
class SyntheticModel {
 public:
  SyntheticModel(const NamedShape& named, cudaStream_t stream) {
    const DecoderShape& s = named.shape;
    const auto hidden = static_cast<size_t>(s.hidden), ffn = static_cast<size_t>(s.ffn);
    const auto dim = static_cast<size_t>(s.kv.head_dim);
    const auto heads = static_cast<size_t>(s.kv.query_heads());
    const size_t qkv = (heads + 2 * static_cast<size_t>(s.kv.kv_heads)) * dim;
    const size_t layer = qkv * hidden + hidden * heads * dim + 3 * ffn * hidden;
    const size_t head = static_cast<size_t>(s.vocab) * hidden;
    const size_t matrices = static_cast<size_t>(s.layers) * layer + head;
    values_ = DeviceBuffer(2 * matrices);
    // Of a size at which activations neither vanish nor grow, whatever the depth.
    const float scale = std::sqrt(3.0f / static_cast<float>(s.hidden));
    fill_random(KvType::kBF16, values_.data(), static_cast<int64_t>(matrices), 1, scale, stream);
    vectors_ = device_array<float>(std::max(hidden, qkv) + dim);
    float* ones = vectors_.as<float>();
    fill_constant(ones, static_cast<int64_t>(hidden), 1.0f, stream);
    float* frequencies = ones + std::max(hidden, qkv);
    std::vector<float> host(dim / 2);
    for (size_t i = 0; i < host.size(); ++i) {
      host[i] = std::pow(named.rope_base, -2.0f * static_cast<float>(i) / static_cast<float>(dim));
    }
    check_cuda(cudaMemcpyAsync(frequencies, host.data(), host.size() * sizeof(float),
                               cudaMemcpyHostToDevice, stream),
               "the frequencies");
    check_cuda(cudaStreamSynchronize(stream), "the weights");
    auto* at = values_.as<uint16_t>();
    const auto take = [&](size_t count) { return std::exchange(at, at + count); };
    weights_.logits = weights_.embedding = take(head);
    for (int l = 0; l < s.layers; ++l) {
      DecoderLayer w;
      w.attention_norm = w.ffn_norm = ones;
      w.qkv = take(qkv * hidden);
      if (named.bias) w.qkv_bias = ones;
      w.output = take(hidden * heads * dim);
      w.gate_up = take(2 * ffn * hidden);
      w.down = take(ffn * hidden);
      weights_.layers.push_back(w);
    }
    weights_.final_norm = ones;
    weights_.frequencies = frequencies;
  }

  const DecoderWeights& weights() const { return weights_; }
  const DeviceBuffer& values() const { return values_; }

 private:
  DeviceBuffer values_, vectors_;
  DecoderWeights weights_;
};

/// Sizes as the engine works them out from tokens; `resident` is a multiple of the selected pages.
inline PageMap page_map(const DecoderShape& shape, const TokenBudget& tokens, double resident,
                        int64_t context) {
  const CacheConfig config{
      .layers = shape.layers,
      .query_heads = shape.kv.query_heads(),
      .shape = {shape.kv.kv_heads, shape.kv.head_dim, shape.kv.page, DType::kBF16},
      .max_context = context,
      .tokens = tokens};
  CacheNeeds needs;
  needs.resident_factor = resident;
  const PageLayout layout(config, needs);
  return {.page = layout.page(),
          .budget = tokens.budget,
          .sink = layout.sink_pages(),
          .window = layout.window_pages(),
          .selected = layout.selected(),
          .resident = layout.resident()};
}

}  // namespace freekv::bench
