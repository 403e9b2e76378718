// Causal attention of a chunk against its definition, and with --gtest_also_run_disabled_tests its
// rate.
#include "backends/cuda/prefill_attention.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "backends/cuda/synthetic.hpp"
#include "backends/cuda/test_arrays.hpp"
#include "backends/op_cases.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

struct Case {
  KvGeometry kv;
  int64_t n;
  int64_t context;
};

// [rows][heads][e] with zeros behind d, in the KV type, and what that holds as floats.
struct Padded {
  Padded(const KvGeometry& kv, int64_t rows, int heads, uint32_t seed) {
    const int stored = prefill_head_dim(kv.head_dim);
    const std::vector<float> random = cases::random_floats(rows * heads * kv.head_dim, seed);
    bits.resize(static_cast<size_t>(rows * heads * stored));
    values.resize(bits.size());
    for (size_t i = 0; i < random.size(); ++i) {
      const size_t dim = static_cast<size_t>(kv.head_dim);
      const auto at = static_cast<int64_t>(i / dim * static_cast<size_t>(stored) + i % dim);
      auto* bytes = reinterpret_cast<std::byte*>(bits.data());
      store_element(dtype_of(kv.type), bytes, at, random[i]);
      values[static_cast<size_t>(at)] = load_element(dtype_of(kv.type), bytes, at);
    }
  }
  std::vector<uint16_t> bits;
  std::vector<float> values;
};

std::vector<uint16_t> attend(const Case& c, bool portable, const Padded& q, const Padded& key,
                             const Padded& value) {
  const DeviceBuffer q_device = to_device(q.bits), key_device = to_device(key.bits),
                     value_device = to_device(value.bits);
  const DeviceBuffer out = to_device(std::vector<uint16_t>(q.bits.size(), 0x7fff));
  const Stream stream;
  prefill_attention({.kv = c.kv,
                     .q = q_device.data(),
                     .key = key_device.data(),
                     .value = value_device.data(),
                     .out = out.data(),
                     .n = c.n,
                     .context = c.context,
                     .portable = portable},
                    stream);
  stream.synchronize();
  return to_host<uint16_t>(out);
}

// Both kernels, where there are two.
void run_case(const Case& c) {
  SCOPED_TRACE(std::to_string(c.kv.kv_heads) + "x" + std::to_string(c.kv.group) + " d" +
               std::to_string(c.kv.head_dim) + (c.kv.type == KvType::kBF16 ? " bf16 " : " f16 ") +
               std::to_string(c.n) + " of " + std::to_string(c.context));
  const int stored = prefill_head_dim(c.kv.head_dim), heads = c.kv.query_heads();
  const Padded q(c.kv, c.n, heads, 1), key(c.kv, c.context, c.kv.kv_heads, 2),
      value(c.kv, c.context, c.kv.kv_heads, 3);
  const std::vector<uint16_t> outs[] = {attend(c, true, q, key, value),
                                        attend(c, false, q, key, value)};
  const auto row = [&](const Padded& from, int64_t at, int count, int head) {
    return from.values.data() + (at * count + head) * stored;
  };
  for (int64_t i = 0; i < c.n; ++i) {
    const int64_t keys = c.context - c.n + i + 1;
    for (int h = 0; h < heads; ++h) {
      const int m = h / c.kv.group;
      std::vector<double> expected(static_cast<size_t>(c.kv.head_dim));
      double sum = 0, largest = 0;
      for (int64_t t = 0; t < keys; ++t) {
        const float* k = row(key, t, c.kv.kv_heads, m);
        const float* v = row(value, t, c.kv.kv_heads, m);
        double score = 0;
        for (size_t e = 0; e < expected.size(); ++e) score += row(q, i, heads, h)[e] * k[e];
        const double weight = std::exp(score / std::sqrt(static_cast<double>(c.kv.head_dim)));
        sum += weight;
        for (size_t e = 0; e < expected.size(); ++e) expected[e] += weight * v[e];
      }
      for (double& x : expected) largest = std::max(largest, std::abs(x /= sum));
      for (const std::vector<uint16_t>& out : outs) {
        double worst = 0;
        for (size_t e = 0; e < expected.size(); ++e) {
          const auto at = static_cast<size_t>((i * heads + h) * stored) + e;
          const double difference = std::abs(bf16_to_f32(out[at]) - expected[e]);
          worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
        }
        ASSERT_LE(worst, 1.2e-2 * largest)
            << "query " << i << " head " << h << (&out == &outs[0] ? ", portable" : "");
      }
    }
  }
}

TEST(PrefillAttention, AgreesWithTheDefinition) {
  for (const KvType type : {KvType::kBF16, KvType::kF16}) {
    for (const int dim : {64, 80, 96, 128, 256}) {
      for (const int group : {1, 3, 4, 5, 7, 16}) {
        for (const auto& [n, context] :
             {std::pair(1, 1), {1, 77}, {33, 33}, {64, 130}, {31, 64}, {65, 300}}) {
          run_case({{2, group, dim, 16, type}, n, context});
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(PrefillAttention, RefusesShapesItDoesNotHave) {
  const auto call = [](const KvGeometry& kv, int64_t n, int64_t context) {
    prefill_attention({.kv = kv, .n = n, .context = context}, Stream());
  };
  EXPECT_NO_THROW(call({2, 4, 128, 16}, 0, 0));
  EXPECT_THROW(call({2, 4, 72, 16}, 0, 0), Error);
  EXPECT_THROW(call({2, 4, 128, 16}, 2, 1), Error);
  EXPECT_THROW(call({0, 4, 128, 16}, 1, 1), Error);
  EXPECT_THROW(call({8, 4, 128, 16}, 1, int64_t{1} << 23), Error);
}

// Of work on two streams, whose blocks share the multiprocessors.
TEST(PrefillAttention, IsTheSameEveryTime) {
  for (const auto& [dim, kv_heads, group] : {std::tuple(64, 2, 3), {128, 2, 4}}) {
    const KvGeometry kv{kv_heads, group, dim, 32, KvType::kBF16};
    const int64_t n = 2048, context = 4096;
    const int64_t q_values = n * kv.query_heads() * dim, kv_values = context * kv_heads * dim;
    const DeviceBuffer q = device_array<uint16_t>(static_cast<size_t>(q_values));
    const DeviceBuffer key = device_array<uint16_t>(static_cast<size_t>(kv_values));
    const DeviceBuffer value = device_array<uint16_t>(static_cast<size_t>(kv_values));
    const Stream streams[2];
    fill_random(kv.type, q.data(), q_values, 1, 1.0f, streams[0]);
    fill_random(kv.type, key.data(), kv_values, 2, 1.0f, streams[0]);
    fill_random(kv.type, value.data(), kv_values, 3, 1.0f, streams[0]);
    streams[0].synchronize();
    const DeviceBuffer out[2] = {DeviceBuffer(q.bytes()), DeviceBuffer(q.bytes())};
    std::vector<uint16_t> first, again(static_cast<size_t>(q_values));
    for (int round = 0; round < 200; ++round) {
      for (int s = 0; s < 2; ++s) {
        prefill_attention({.kv = kv,
                           .q = q.data(),
                           .key = key.data(),
                           .value = value.data(),
                           .out = out[s].data(),
                           .n = n,
                           .context = context},
                          streams[s]);
      }
      for (int s = 0; s < 2; ++s) {
        streams[s].synchronize();
        check_cuda(cudaMemcpy(again.data(), out[s].data(), q.bytes(), cudaMemcpyDeviceToHost),
                   "the output");
        if (first.empty()) first = again;
        ASSERT_TRUE(again == first) << "d " << dim << ", round " << round << ", stream " << s;
      }
    }
  }
}

TEST(PrefillAttention, DISABLED_Rate) {
  for (const auto& [dim, kv_heads, group] : {std::tuple(128, 8, 4), {64, 8, 4}, {256, 4, 4}}) {
    for (const int64_t context : {8192, 32768, 131072}) {
      for (const bool portable : {false, true}) {
        const KvGeometry kv{kv_heads, group, dim, 32, KvType::kBF16};
        const int64_t n = 8192;
        const int64_t q_values = n * kv.query_heads() * dim, kv_values = context * kv_heads * dim;
        const DeviceBuffer q = device_array<uint16_t>(static_cast<size_t>(q_values));
        const DeviceBuffer key = device_array<uint16_t>(static_cast<size_t>(kv_values));
        const DeviceBuffer out(q.bytes());
        const Stream stream;
        fill_random(kv.type, q.data(), q_values, 1, 1.0f, stream);
        fill_random(kv.type, key.data(), kv_values, 2, 1.0f, stream);
        Event start(EventUse::kTiming), end(EventUse::kTiming);
        for (int round = 0; round < 2; ++round) {
          start.record(stream);
          for (int i = 0; i < 5; ++i) {
            prefill_attention({.kv = kv,
                               .q = q.data(),
                               .key = key.data(),
                               .value = key.data(),
                               .out = out.data(),
                               .n = n,
                               .context = context,
                               .portable = portable},
                              stream);
          }
          end.record(stream);
          stream.synchronize();
        }
        const double ms = end.since(start) / 5;
        const double pairs = static_cast<double>(n) * static_cast<double>(context) -
                             static_cast<double>(n) * static_cast<double>(n) / 2;
        std::printf("d %3d, %6lld of %6lld%s: %8.3f ms, %5.0f TFLOP/s\n", dim,
                    static_cast<long long>(n), static_cast<long long>(context),
                    portable ? ", portable" : "", ms,
                    4 * pairs * kv.query_heads() * dim / ms * 1e-9);
      }
    }
  }
}

}  // namespace
}  // namespace freekv::cuda
