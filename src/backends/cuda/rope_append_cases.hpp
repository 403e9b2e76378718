// Cases of rope_append, and sequences on the device that it can step.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "backends/cuda/rope_append.hpp"
#include "backends/cuda/test_arrays.hpp"
#include "backends/op_cases.hpp"

namespace freekv::cuda::rope_cases {

inline constexpr int kLayers = 2;
inline constexpr int kLayer = 1;
inline constexpr int kGuard = 64;  // values behind every output, which no kernel may touch
inline constexpr uint16_t kUnwritten = 0xffff;
inline constexpr float kNormEps = 1e-5f;

struct Case {
  int kv_heads, group, head_dim, page;
  KvType type;
  Rope rope;

  std::string name() const {
    return "M=" + std::to_string(kv_heads) + " G=" + std::to_string(group) +
           " d=" + std::to_string(head_dim) + " p=" + std::to_string(page);
  }
  KvGeometry geometry() const { return {kv_heads, group, head_dim, page, type}; }
  PageMap map() const { return {page, int64_t{6} * page, 1, 2, 3, 4}; }
  int heads() const { return kv_heads * group; }
  int q_size() const { return heads() * head_dim; }
  int kv_size() const { return kv_heads * head_dim; }
  int qkv_size() const { return q_size() + 2 * kv_size(); }
  DType dtype() const { return type == KvType::kBF16 ? DType::kBF16 : DType::kF16; }
};

// One sequence before its first step here.
struct Spec {
  int64_t before = 0;  // its tokens
  bool budgeted = true;
  bool retrieves = true;
};

// Sequences on the device: their state, and steps of batches of them.
class World {
 public:
  World(const Case& c, const std::vector<Spec>& specs, bool rotates = true) : case_(c) {
    std::vector<SequenceLayer> layers;
    for (const Spec& spec : specs) {
      tokens.push_back(spec.before);
      const int32_t slots =
          spec.budgeted ? c.map().budget_slots() : c.map().pages(spec.before + 8) + 1;
      const auto values = static_cast<size_t>(slots * c.geometry().slot());
      fast.push_back(to_device(std::vector<uint16_t>(values, kUnwritten)));
      previous.push_back(to_device(cases::poisoned(c.q_size())));
      started.push_back(to_device(std::vector<int32_t>(static_cast<size_t>(c.kv_heads), 0)));
      SequenceLayer layer;
      layer.budgeted = spec.budgeted;
      layer.retrieves = spec.retrieves;
      layer.fast = fast.back().data();
      layer.previous_q = previous.back().as<float>();
      layer.started = started.back().as<int32_t>();
      layers.insert(layers.end(), kLayers - 1, SequenceLayer{});  // nothing may use those
      layers.push_back(layer);
    }
    for (int i = 0; i < c.head_dim / 2; ++i) {
      frequencies.push_back(rotates ? std::pow(10000.0f, -2.0f * i / c.head_dim) : 0.0f);
    }
    layers_ = to_device(layers);
    frequencies_ = to_device(frequencies);
    counters = to_device(std::vector<RowCounters>(specs.size() * c.kv_heads));
  }

  // The tokens of the batch count up afterwards.
  void step(const std::vector<int32_t>& batch, const std::vector<float>& qkv, float tau,
            float forced_drift = -1) {
    const auto n = static_cast<int32_t>(batch.size());
    const DeviceBuffer sequence = to_device(batch);
    const DeviceBuffer lengths = to_device(tokens);
    const DeviceBuffer input = to_device(qkv);
    const DeviceBuffer q_out = to_device(cases::poisoned(int64_t{n} * case_.q_size() + kGuard));
    const DeviceBuffer mode_out =
        to_device(std::vector<int32_t>(static_cast<size_t>(n * case_.kv_heads + kGuard), -7));
    const Stream stream;
    const Batch on_device{n, kLayers, sequence.as<int32_t>(), lengths.as<int64_t>(),
                          layers_.as<SequenceLayer>()};
    const Graph graph = Graph::capture(stream, [&] {
      rope_append({.batch = on_device,
                   .kv = case_.geometry(),
                   .map = case_.map(),
                   .layer = kLayer,
                   .qkv = input.as<float>(),
                   .q_norm = head_norm.empty() ? nullptr : norms_.as<float>(),
                   .k_norm = head_norm.empty() ? nullptr : norms_.as<float>(),
                   .norm_eps = kNormEps,
                   .frequencies = frequencies_.as<float>(),
                   .rope_scale = scale,
                   .rope = case_.rope,
                   .tau = tau,
                   .forced_drift = forced_drift,
                   .q = q_out.as<float>(),
                   .mode = mode_out.as<RowMode>(),
                   .counters = counters.as<RowCounters>()},
                  stream);
    });
    graph.launch(stream);
    stream.synchronize();
    q = to_host<float>(q_out);
    mode = to_host<int32_t>(mode_out);
    for (int i = 0; i < kGuard; ++i) {
      EXPECT_TRUE(std::isnan(q[q.size() - 1 - i]));
      EXPECT_EQ(mode[mode.size() - 1 - i], -7);
    }
    q.resize(q.size() - kGuard);
    mode.resize(mode.size() - kGuard);
    for (const int32_t s : batch) ++tokens[s];
  }

  /// From here on heads are normed with these weights [d], and cos and sin are times `scale`.
  void norm_heads(const std::vector<float>& weights) {
    head_norm = weights;
    norms_ = to_device(weights);
  }

  float scale = 1;
  std::vector<float> head_norm;
  std::vector<int64_t> tokens;
  std::vector<float> frequencies;
  std::vector<DeviceBuffer> fast, previous, started;  // of kLayer, by sequence
  DeviceBuffer counters;
  std::vector<float> q;       // of the last step
  std::vector<int32_t> mode;  // likewise

 private:
  Case case_;
  DeviceBuffer layers_, frequencies_, norms_;
};

// Every kind of sequence, around pages, the budget and the turns of the window's ring.
inline std::vector<Spec> specs_of(int page) {
  const int64_t p = page, budget = 6 * p;
  return {{p + 5},
          {0},
          {1},
          {p - 1},
          {p, false},
          {p + 1, false, false},
          {budget - 2},
          {budget - 1},
          {budget, false},
          {budget + p - 1},
          {20 * p + 3},
          {20 * p + 3, true, false},
          {1'000'003},
          {9 * p - 1, false, false}};
}

inline constexpr Case kCases[] = {{8, 4, 128, 32, KvType::kBF16, Rope::kInterleaved},
                                  {8, 4, 128, 32, KvType::kF16, Rope::kHalves},
                                  {1, 1, 64, 16, KvType::kF16, Rope::kInterleaved},
                                  {2, 3, 80, 16, KvType::kBF16, Rope::kHalves},
                                  {3, 5, 96, 64, KvType::kF16, Rope::kInterleaved},
                                  {4, 7, 128, 32, KvType::kBF16, Rope::kHalves},
                                  {2, 6, 256, 16, KvType::kF16, Rope::kHalves},
                                  {8, 16, 64, 32, KvType::kBF16, Rope::kHalves},
                                  {4, 2, 256, 32, KvType::kBF16, Rope::kInterleaved},
                                  {5, 1, 80, 64, KvType::kF16, Rope::kInterleaved}};

}  // namespace freekv::cuda::rope_cases
