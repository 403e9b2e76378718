// Small models for the tests of prefill, and what they compute by definition, in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "backends/cuda/decoder.hpp"
#include "backends/cuda/test_arrays.hpp"
#include "backends/op_cases.hpp"

namespace freekv::cuda::prefill_cases {

struct Case {
  int kv_heads;
  int group;
  int head_dim;
  int page;
  KvType type;
  Rope rope;
  bool biases;
  bool head_norms;
  float rope_scale = 1;

  DecoderShape shape() const {
    return {.layers = 3,
            .hidden = 128,
            .ffn = 192,
            .vocab = 96,
            .norm_eps = 1e-5f,
            .rope = rope,
            .rope_scale = rope_scale,
            .kv = {kv_heads, group, head_dim, page, type}};
  }
  std::string name() const {
    return std::to_string(kv_heads) + "x" + std::to_string(group) + " d" +
           std::to_string(head_dim) + " p" + std::to_string(page) +
           (type == KvType::kBF16 ? " bf16" : " f16") +
           (rope == Rope::kHalves ? " halves" : " interleaved") + (biases ? " biases" : "") +
           (head_norms ? " norms" : "");
  }
};

inline constexpr Case kCases[] = {
    {2, 4, 64, 16, KvType::kBF16, Rope::kHalves, false, false},
    {1, 1, 64, 32, KvType::kF16, Rope::kInterleaved, true, false},
    {2, 3, 80, 16, KvType::kBF16, Rope::kInterleaved, true, true, 1.2f},
    {2, 7, 128, 32, KvType::kBF16, Rope::kHalves, true, true},
    {3, 4, 128, 16, KvType::kF16, Rope::kHalves, false, true},
    {1, 3, 96, 64, KvType::kF16, Rope::kHalves, false, false, 0.8f},
    {1, 2, 256, 16, KvType::kBF16, Rope::kInterleaved, false, true}};

/// Values as the device has them: matrices rounded to bf16.
struct HostLayer {
  std::vector<float> attention_norm, qkv, qkv_bias, q_norm, k_norm, output, output_bias, ffn_norm,
      gate_up, down;
};

class Model {
 public:
  explicit Model(const Case& c) : shape_(c.shape()) {
    const DecoderShape& s = shape_;
    const int dim = s.kv.head_dim, heads = s.kv.query_heads();
    const int qkv = (heads + 2 * s.kv.kv_heads) * dim;
    embedding = matrix(&weights_.embedding, s.vocab, s.hidden, 1);
    head = matrix(&weights_.logits, s.vocab, s.hidden);
    final_norm = vector(&weights_.final_norm, s.hidden, 1);
    for (int i = 0; i < dim / 2; ++i) {
      frequencies.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / dim));
    }
    weights_.frequencies = keep(frequencies);
    for (int l = 0; l < s.layers; ++l) {
      HostLayer host;
      DecoderLayer w;
      host.attention_norm = vector(&w.attention_norm, s.hidden, 1);
      host.qkv = matrix(&w.qkv, qkv, s.hidden);
      if (c.biases) host.qkv_bias = vector(&w.qkv_bias, qkv, 0);
      if (c.head_norms) host.q_norm = vector(&w.q_norm, dim, 1);
      if (c.head_norms) host.k_norm = vector(&w.k_norm, dim, 1);
      host.output = matrix(&w.output, s.hidden, heads * dim);
      if (c.biases) host.output_bias = vector(&w.output_bias, s.hidden, 0);
      host.ffn_norm = vector(&w.ffn_norm, s.hidden, 1);
      host.gate_up = matrix(&w.gate_up, 2 * s.ffn, s.hidden);
      host.down = matrix(&w.down, s.hidden, s.ffn);
      layers.push_back(std::move(host));
      weights_.layers.push_back(w);
    }
  }

  const DecoderShape& shape() const { return shape_; }
  const DecoderWeights& weights() const { return weights_; }

  std::vector<float> embedding, head, final_norm, frequencies;
  std::vector<HostLayer> layers;

 private:
  std::vector<float> matrix(const void** on_device, int rows, int columns, float size = 0) {
    const float deviation = size > 0 ? size : 1.0f / std::sqrt(static_cast<float>(columns));
    std::vector<float> values = cases::random_floats(int64_t{rows} * columns, ++seed_, deviation);
    const std::vector<uint16_t> bits = to_bf16(values);
    for (size_t i = 0; i < bits.size(); ++i) values[i] = bf16_to_f32(bits[i]);
    kept_.push_back(to_device(bits));
    *on_device = kept_.back().data();
    return values;
  }
  std::vector<float> vector(const float** on_device, int size, float middle) {
    std::vector<float> values = cases::random_floats(size, ++seed_, 0.3f);
    for (float& value : values) value += middle;
    *on_device = keep(values);
    return values;
  }
  const float* keep(const std::vector<float>& values) {
    kept_.push_back(to_device(values));
    return kept_.back().as<float>();
  }

  DecoderShape shape_;
  DecoderWeights weights_;
  std::vector<DeviceBuffer> kept_;
  uint32_t seed_ = 0;
};

/// Queries [layers][T][H][d], keys and values [layers][T][M][d], the last token's logits [V].
struct Expected {
  std::vector<std::vector<double>> queries, keys, values;
  std::vector<double> logits;
};

using Rows = std::vector<std::vector<double>>;

inline std::vector<double> normed(std::span<const double> x, const std::vector<float>& weight,
                                  double eps) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  const double inverse = 1 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
  std::vector<double> out;
  for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] * inverse * weight[i]);
  return out;
}

inline std::vector<double> product(const std::vector<double>& x, const std::vector<float>& weight,
                                   const std::vector<float>& bias = {}) {
  const size_t k = x.size();
  std::vector<double> out(weight.size() / k);
  for (size_t n = 0; n < out.size(); ++n) {
    double sum = bias.empty() ? 0 : bias[n];
    for (size_t i = 0; i < k; ++i) sum += x[i] * weight[n * k + i];
    out[n] = sum;
  }
  return out;
}

inline void rotate(std::span<double> head, const Model& model, int64_t position) {
  const DecoderShape& s = model.shape();
  const size_t half = head.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<float>(position) * model.frequencies[i];
    const double cosine = std::cos(angle) * s.rope_scale, sine = std::sin(angle) * s.rope_scale;
    double& a = head[s.rope == Rope::kInterleaved ? 2 * i : i];
    double& b = head[s.rope == Rope::kInterleaved ? 2 * i + 1 : i + half];
    const double turned = a * cosine - b * sine;
    b = a * sine + b * cosine;
    a = turned;
  }
}

/// Causal attention of all tokens of one layer: q [T][H d], key and value [T M d].
inline Rows attend(const KvGeometry& kv, const Rows& q, const std::vector<double>& key,
                   const std::vector<double>& value) {
  const auto dim = static_cast<size_t>(kv.head_dim), heads = static_cast<size_t>(kv.kv_heads);
  Rows out(q.size(), std::vector<double>(q[0].size(), 0.0));
  for (size_t t = 0; t < q.size(); ++t) {
    for (size_t h = 0; h < static_cast<size_t>(kv.query_heads()); ++h) {
      const size_t m = h / static_cast<size_t>(kv.group);
      std::vector<double> weight;
      double sum = 0;
      for (size_t u = 0; u <= t; ++u) {
        double score = 0;
        for (size_t e = 0; e < dim; ++e)
          score += q[t][h * dim + e] * key[(u * heads + m) * dim + e];
        weight.push_back(std::exp(score / std::sqrt(static_cast<double>(dim))));
        sum += weight.back();
      }
      for (size_t u = 0; u <= t; ++u) {
        for (size_t e = 0; e < dim; ++e) {
          out[t][h * dim + e] += weight[u] / sum * value[(u * heads + m) * dim + e];
        }
      }
    }
  }
  return out;
}

inline Expected expected(const Model& model, const std::vector<int32_t>& ids) {
  const DecoderShape& s = model.shape();
  const auto hidden = static_cast<size_t>(s.hidden), ffn = static_cast<size_t>(s.ffn);
  const auto dim = static_cast<size_t>(s.kv.head_dim);
  const auto heads = static_cast<size_t>(s.kv.query_heads());
  const auto kv_heads = static_cast<size_t>(s.kv.kv_heads);
  Expected result;
  Rows x;
  for (const int32_t id : ids) {
    const auto row = model.embedding.begin() + static_cast<ptrdiff_t>(id) * s.hidden;
    x.emplace_back(row, row + s.hidden);
  }
  const auto add = [hidden](std::vector<double>& to, const std::vector<double>& what) {
    for (size_t i = 0; i < hidden; ++i) to[i] += what[i];
  };
  for (const HostLayer& w : model.layers) {
    Rows q;
    std::vector<double> key, value;
    for (size_t t = 0; t < x.size(); ++t) {
      std::vector<double> qkv =
          product(normed(x[t], w.attention_norm, s.norm_eps), w.qkv, w.qkv_bias);
      for (size_t h = 0; h < heads + kv_heads; ++h) {
        const std::span<double> head = std::span(qkv).subspan(h * dim, dim);
        const std::vector<float>& norm = h < heads ? w.q_norm : w.k_norm;
        if (!norm.empty()) std::ranges::copy(normed(head, norm, s.norm_eps), head.begin());
        rotate(head, model, static_cast<int64_t>(t));
      }
      const auto k = qkv.begin() + static_cast<ptrdiff_t>(heads * dim);
      const auto v = k + static_cast<ptrdiff_t>(kv_heads * dim);
      q.emplace_back(qkv.begin(), k);
      key.insert(key.end(), k, v);
      value.insert(value.end(), v, qkv.end());
    }
    const Rows attention = attend(s.kv, q, key, value);
    for (size_t t = 0; t < x.size(); ++t) {
      add(x[t], product(attention[t], w.output, w.output_bias));
      const std::vector<double> gate_up = product(normed(x[t], w.ffn_norm, s.norm_eps), w.gate_up);
      std::vector<double> activated;
      for (size_t i = 0; i < ffn; ++i) {
        activated.push_back(gate_up[i] / (1 + std::exp(-gate_up[i])) * gate_up[ffn + i]);
      }
      add(x[t], product(activated, w.down));
    }
    result.queries.emplace_back();
    for (const auto& row : q) std::ranges::copy(row, std::back_inserter(result.queries.back()));
    result.keys.push_back(std::move(key));
    result.values.push_back(std::move(value));
  }
  result.logits = product(normed(x.back(), model.final_norm, s.norm_eps), model.head);
  return result;
}

/// |actual - expected| / |expected|, over all values; infinite where one is NaN.
template <typename A, typename E>
double distance(const std::vector<A>& actual, const std::vector<E>& expected) {
  if (actual.size() != expected.size()) return INFINITY;
  double squares = 0, of_expected = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
    squares += difference * difference;
    of_expected += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  const double result = std::sqrt(squares / of_expected);
  return std::isnan(result) ? INFINITY : result;
}

}  // namespace freekv::cuda::prefill_cases
