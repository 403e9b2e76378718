// For tests of the whole decode step: a model so small that a run takes milliseconds, with random
// weights and caches, and sizes at which it retrieves.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "backends/cuda/decoder.hpp"
#include "backends/cuda/synthetic.hpp"
#include "backends/cuda/test_arrays.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda::cases {

/// Three layers, two KV heads of 64 with two query heads each, pages of 16.
class TinyModel {
 public:
  TinyModel() {
    shape_ = {.layers = 3,
              .hidden = 128,
              .ffn = 256,
              .vocab = 256,
              .norm_eps = 1e-5f,
              .rope = Rope::kHalves,
              .kv = {2, 2, 64, 16, KvType::kBF16}};
    const int64_t hidden = shape_.hidden, ffn = shape_.ffn;
    const int64_t heads = int64_t{shape_.kv.query_heads()} * shape_.kv.head_dim;
    const int64_t qkv = heads + int64_t{2} * shape_.kv.kv_heads * shape_.kv.head_dim;
    const int64_t layer = qkv * hidden + hidden * heads + 3 * ffn * hidden;
    const int64_t embedding = shape_.vocab * hidden, all = shape_.layers * layer + embedding;
    const Stream stream;
    matrices_ = device_array<uint16_t>(static_cast<size_t>(all));
    fill_random(KvType::kBF16, matrices_.data(), all, 1,
                std::sqrt(3.0f / static_cast<float>(hidden)), stream);
    norm_ = device_array<float>(static_cast<size_t>(hidden));
    fill_constant(norm_.as<float>(), hidden, 1.0f, stream);
    stream.synchronize();
    std::vector<float> frequencies;
    for (int i = 0; i < shape_.kv.head_dim / 2; ++i) {
      frequencies.push_back(std::pow(1e4f, -2.0f * static_cast<float>(i) / 64.0f));
    }
    frequencies_ = to_device(frequencies);

    const auto* at = matrices_.as<uint16_t>();
    const auto take = [&](int64_t count) { return std::exchange(at, at + count); };
    weights_.embedding = weights_.logits = take(embedding);
    for (int32_t l = 0; l < shape_.layers; ++l) {
      DecoderLayer w;
      w.attention_norm = w.ffn_norm = norm_.as<float>();
      w.qkv = take(qkv * hidden);
      w.output = take(hidden * heads);
      w.gate_up = take(2 * ffn * hidden);
      w.down = take(ffn * hidden);
      weights_.layers.push_back(w);
    }
    weights_.final_norm = norm_.as<float>();
    weights_.frequencies = frequencies_.as<float>();
  }

  const DecoderShape& shape() const { return shape_; }
  const DecoderWeights& weights() const { return weights_; }
  /// Sink 1, 4 selected, 6 resident, window 2: retrieves past 112 tokens.
  PageMap map() const {
    PageMap map;
    map.page = shape_.kv.page;
    map.sink = 1;
    map.selected = 4;
    map.resident = 6;
    map.window = 2;
    map.budget = int64_t{map.page} * (map.sink + map.selected + map.window);
    return map;
  }

 private:
  DecoderShape shape_;
  DecoderWeights weights_;
  DeviceBuffer matrices_, norm_, frequencies_;
};

/// `tokens` tokens of random KV, the same for all rules; ready to decode.
inline void fill_sequence(Decoder& decoder, const TinyModel& model, int32_t sequence,
                          int64_t tokens) {
  for (int32_t l = 0; l < model.shape().layers; ++l) {
    const SequenceLayer& layer = decoder.layer(sequence, l);
    fill_random_pages(model.shape().kv, !layer.budgeted || layer.token_major,
                      layer.budgeted ? layer.slow : layer.fast, model.map().pages(tokens),
                      static_cast<uint64_t>(100 * sequence + l), 1.0f, decoder.stream());
  }
  decoder.begin(sequence, tokens);
}

/// The last step's logits [n, V], to the bit.
inline std::vector<uint32_t> logit_bits(const Decoder& decoder, size_t n, int32_t vocab) {
  std::vector<uint32_t> bits(n * static_cast<size_t>(vocab));
  check_cuda(cudaMemcpyAsync(bits.data(), decoder.logits(), bits.size() * sizeof(uint32_t),
                             cudaMemcpyDeviceToHost, decoder.stream()),
             "the logits");
  check_cuda(cudaStreamSynchronize(decoder.stream()), "a step");
  return bits;
}

}  // namespace freekv::cuda::cases
