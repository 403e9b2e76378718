#include "backends/cuda/bench/synthetic_model.hpp"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "backends/cuda/synthetic.hpp"
#include "core/check.hpp"

namespace freekv::cuda {

DecoderShape decoder_shape(const SyntheticShape& s) {
  if (s.kv.dtype != DType::kF16 && s.kv.dtype != DType::kBF16) {
    fail(ErrorCode::kUnsupported, "kv type is {}, backend cuda runs F16 and BF16",
         dtype_name(s.kv.dtype));
  }
  return {.layers = s.layers,
          .hidden = s.hidden,
          .ffn = s.ffn,
          .vocab = s.vocab,
          .norm_eps = 1e-5f,
          .rope = Rope::kHalves,
          .kv = {.kv_heads = s.kv.heads,
                 .group = s.query_heads / s.kv.heads,
                 .head_dim = s.kv.head_dim,
                 .page = s.kv.page,
                 .type = s.kv.dtype == DType::kF16 ? KvType::kF16 : KvType::kBF16}};
}

SyntheticModel::SyntheticModel(const SyntheticShape& shape, cudaStream_t stream) {
  const DecoderShape s = decoder_shape(shape);
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
  // One vector serves all norms, and as a bias, where what is in it does not matter.
  vectors_ = device_array<float>(std::max(hidden, qkv) + dim);
  float* ones = vectors_.as<float>();
  fill_constant(ones, static_cast<int64_t>(hidden), 1.0f, stream);
  float* frequencies = ones + std::max(hidden, qkv);
  std::vector<float> host(dim / 2);
  for (size_t i = 0; i < host.size(); ++i) {
    host[i] = std::pow(shape.rope_base, -2.0f * static_cast<float>(i) / static_cast<float>(dim));
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
    if (shape.qkv_bias) w.qkv_bias = ones;
    if (shape.head_norms) w.q_norm = w.k_norm = ones;
    w.output = take(hidden * heads * dim);
    w.gate_up = take(2 * ffn * hidden);
    w.down = take(ffn * hidden);
    weights_.layers.push_back(w);
  }
  weights_.final_norm = ones;
  weights_.frequencies = frequencies;
}

}  // namespace freekv::cuda
