// Decode attention against its definition, and with --gtest_also_run_disabled_tests its times.
#include "backends/cuda/decode_attention.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "backends/cuda/decode_attention_cases.hpp"
#include "backends/op_test.hpp"
#include "device/cuda/runtime.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

using decode_cases::Inputs;
using decode_cases::page_map;
using decode_cases::SequenceCase;

double tolerance(KvType type) { return type == KvType::kBF16 ? 1e-2 : 2e-3; }

/// Lengths around a page and the budget, in every kind of layer.
std::vector<SequenceCase> mixed_batch(int page) {
  const int64_t budget = page_map(page).budget;
  return {{1, false, RowMode::kDense},
          {budget + 1, true, RowMode::kSpeculative},
          {page - 1, false, RowMode::kDense},
          {page, true, RowMode::kDense},
          {page + 1, true, RowMode::kDense},
          {3000 + page / 2, false, RowMode::kDense},
          {budget - 1, true, RowMode::kDense},
          {budget, true, RowMode::kDense},
          {budget + page, true, RowMode::kCorrected},
          {5000, true, RowMode::kSpeculative},
          {3001, false, RowMode::kCorrected}};
}

std::vector<KvGeometry> geometries() {
  struct Size {
    int kv_heads, group, head_dim, page;
  };
  constexpr Size kSizes[] = {{2, 1, 64, 16},  {1, 2, 128, 32},  {2, 3, 80, 32},  {3, 4, 128, 16},
                             {1, 5, 96, 64},  {2, 6, 256, 16},  {1, 7, 64, 64},  {4, 8, 128, 32},
                             {1, 9, 80, 16},  {2, 10, 96, 16},  {1, 11, 64, 32}, {1, 12, 256, 32},
                             {1, 13, 80, 64}, {1, 14, 128, 64}, {1, 15, 96, 32}, {1, 16, 256, 64},
                             {2, 16, 128, 32}};
  std::vector<KvGeometry> result;
  for (const Size& s : kSizes) {
    for (const KvType type : {KvType::kBF16, KvType::kF16}) {
      result.push_back({s.kv_heads, s.group, s.head_dim, s.page, type});
    }
  }
  return result;
}

void expect_near(const std::vector<float>& actual, const std::vector<float>& expected,
                 int64_t row_size, double limit) {
  ASSERT_EQ(actual.size(), expected.size());
  const auto size = static_cast<size_t>(row_size);
  for (size_t i = 0; i < actual.size(); i += size) {
    EXPECT_LE(cases::relative_error(std::span(actual).subspan(i, size),
                                    std::span(expected).subspan(i, size)),
              limit)
        << "row " << i / size;
  }
}

TEST(CudaDecodeAttention, AgreesWithDefinitionTwice) {
  for (const KvGeometry& kv : geometries()) {
    SCOPED_TRACE(name_of(kv));
    const Inputs inputs(kv, mixed_batch(kv.page));
    const float scale = 1 / std::sqrt(static_cast<float>(kv.head_dim));
    const std::vector<float> expected = inputs.expected(scale);
    for (const int splits : {1, 3, 16}) {
      SCOPED_TRACE(splits);
      DecodeAttentionParams params = inputs.params(splits, scale);
      const DeviceBuffer scratch(decode_attention_scratch(kv, params.batch.n, splits));
      params.scratch = scratch.data();
      const std::vector<float> once = inputs.run(params);
      expect_near(once, expected, inputs.row_size(), tolerance(kv.type));
      // Fails, too, where a counter of the first run was left: nobody would write the row.
      EXPECT_TRUE(same_bits(inputs.run(params), once));
      // Rows that turn out to be corrected have begun with pages that are not theirs then.
      params.expects_speculative = true;
      EXPECT_TRUE(same_bits(inputs.run(params), once));
    }
  }
}

TEST(CudaDecodeAttention, RowsDoNotDependOnTheBatch) {
  const KvGeometry kv{2, 4, 128, 32, KvType::kF16};
  const Inputs inputs(kv, mixed_batch(kv.page));
  for (const int splits : {1, 16}) {
    DecodeAttentionParams params = inputs.params(splits, 0.1f);
    const DeviceBuffer scratch(decode_attention_scratch(kv, params.batch.n, splits));
    params.scratch = scratch.data();
    const std::vector<float> batch = inputs.run(params);
    const auto size = static_cast<size_t>(kv.kv_heads * inputs.row_size());
    for (int b = 0; b < params.batch.n; ++b) {
      SCOPED_TRACE(b);
      DecodeAttentionParams alone = inputs.params(splits, 0.1f, b);
      alone.scratch = scratch.data();
      EXPECT_TRUE(same_bits(inputs.run(alone),
                            std::span(batch).subspan(static_cast<size_t>(b) * size, size)));
    }
  }
}

TEST(CudaDecodeAttention, BatchesOfAnySizeShareScratch) {
  const KvGeometry kv{8, 1, 64, 16, KvType::kBF16};
  const Inputs inputs(kv, mixed_batch(kv.page));
  DecodeAttentionParams params = inputs.params(3, 0.1f);
  DecodeAttentionParams other = inputs.params(16, 0.1f, 5);
  const DeviceBuffer scratch(decode_attention_scratch(kv, params.batch.n, 16));
  params.scratch = other.scratch = scratch.data();
  const std::vector<float> once = inputs.run(params);
  inputs.run(other);
  EXPECT_TRUE(same_bits(inputs.run(params), once));
}

TEST(CudaDecodeAttention, SurvivesSharpScores) {
  // Scores of several hundred: weights underflow, and a running maximum jumps.
  for (const KvType type : {KvType::kBF16, KvType::kF16}) {
    const KvGeometry kv{1, 4, 64, 32, type};
    const Inputs inputs(kv, mixed_batch(kv.page), 100.0f);
    DecodeAttentionParams params = inputs.params(3, 0.5f);
    const DeviceBuffer scratch(decode_attention_scratch(kv, params.batch.n, 3));
    params.scratch = scratch.data();
    expect_near(inputs.run(params), inputs.expected(0.5f), inputs.row_size(), 5e-2);
  }
}

TEST(CudaDecodeAttention, RunsInAGraph) {
  const KvGeometry kv{2, 4, 128, 32, KvType::kBF16};
  const Inputs inputs(kv, mixed_batch(kv.page));
  DecodeAttentionParams params = inputs.params(16, 0.1f);
  const DeviceBuffer scratch(decode_attention_scratch(kv, params.batch.n, 16));
  params.scratch = scratch.data();
  const std::vector<float> expected = inputs.run(params);
  const Stream stream;
  const Graph graph = Graph::capture(stream, [&] { decode_attention(params, stream); });
  for (int i = 0; i < 3; ++i) {
    inputs.poison();
    graph.launch(stream);
    EXPECT_TRUE(same_bits(inputs.result(params.batch.n), expected));
  }
}

TEST(CudaDecodeAttention, RefusesWhatItCannotDo) {
  const KvGeometry kv{1, 4, 64, 32, KvType::kBF16};
  const Inputs inputs(kv, {{5, false, RowMode::kDense}});
  DecodeAttentionParams params = inputs.params(1, 1.0f);
  EXPECT_NO_THROW(inputs.run(params));
  const auto refused = [&](auto&& change) {
    DecodeAttentionParams bad = params;
    change(bad);
    EXPECT_THROW(decode_attention(bad, nullptr), Error);
  };
  refused([](auto& p) { p.splits = 2; });  // without scratch
  refused([](auto& p) { p.splits = 0; });
  refused([](auto& p) { p.kv.group = 17; });
  refused([](auto& p) { p.kv.head_dim = 72; });
  refused([](auto& p) { p.kv.page = p.map.page = 8; });
  refused([](auto& p) { p.layer = 2; });
  params.batch.n = 0;
  params.splits = 0;
  EXPECT_NO_THROW(decode_attention(params, nullptr));
}

/// A row's worth of layers, so that no launch finds its KV in the cache of the one before.
class Timing {
 public:
  Timing(const KvGeometry& kv, int64_t tokens, int layers) : kv_(kv), layers_(layers) {
    const size_t bytes = static_cast<size_t>((tokens + kv.page - 1) / kv.page * kv.slot()) * 2;
    std::vector<SequenceLayer> views(static_cast<size_t>(layers));
    for (SequenceLayer& view : views) {
      fast_.emplace_back(bytes);
      view.fast = fast_.back().data();
    }
    layer_ = decode_cases::upload(views);
    tokens_ = decode_cases::upload(std::vector<int64_t>{tokens - 1});
    order_ = decode_cases::upload(std::vector<int32_t>{0});
    mode_ = decode_cases::upload(std::vector<RowMode>(static_cast<size_t>(kv.kv_heads)));
    const auto size = static_cast<size_t>(kv.query_heads() * kv.head_dim);
    q_ = device_array<float>(size);
    out_ = device_array<float>(size);
  }

  /// Microseconds of a launch inside a graph.
  float launch(int splits) const {
    const DeviceBuffer scratch(decode_attention_scratch(kv_, 1, splits));
    const Stream stream;
    const Graph graph = Graph::capture(stream, [&] {
      for (int layer = 0; layer < layers_; ++layer) {
        DecodeAttentionParams params;
        params.batch = {1, layers_, order_.as<int32_t>(), tokens_.as<int64_t>(),
                        layer_.as<SequenceLayer>()};
        params.kv = kv_;
        params.map = page_map(kv_.page);
        params.layer = layer;
        params.q = q_.as<float>();
        params.mode = mode_.as<RowMode>();
        params.out = out_.as<float>();
        params.splits = splits;
        params.scratch = scratch.data();
        decode_attention(params, stream);
      }
    });
    graph.launch(stream);
    Event start(EventUse::kTiming);
    Event end(EventUse::kTiming);
    start.record(stream);
    constexpr int kRuns = 5;
    for (int i = 0; i < kRuns; ++i) graph.launch(stream);
    end.record(stream);
    stream.synchronize();
    return end.since(start) * 1000 / static_cast<float>(kRuns * layers_);
  }

 private:
  KvGeometry kv_;
  int layers_;
  std::vector<DeviceBuffer> fast_;
  DeviceBuffer layer_, tokens_, order_, mode_, q_, out_;
};

TEST(CudaDecodeAttention, DISABLED_Times) {
  for (const int head_dim : {128, 64}) {
    for (const int group : {1, 4, 8, 16}) {
      const KvGeometry kv{8, group, head_dim, 32, KvType::kBF16};
      for (const int64_t tokens : {int64_t{2048}, int64_t{131072}}) {
        const Timing timing(kv, tokens, tokens == 2048 ? 32 : 4);
        for (const int splits : {8, 16, 32, 33, 64}) {
          const float us = timing.launch(splits);
          const double bytes = static_cast<double>(tokens) * kv.kv_heads * head_dim * 4;
          std::printf("d=%d G=%d T=%lld splits=%d: %.2f us, %.0f GB/s\n", head_dim, group,
                      static_cast<long long>(tokens), splits, us, bytes / us * 1e-3);
        }
      }
    }
  }
}

}  // namespace
}  // namespace freekv::cuda
