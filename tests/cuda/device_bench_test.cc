// What `freekv bench --shape` asks of this backend, at sizes that take no time.
#include "backends/cuda/bench/device_bench.hpp"

#include <gtest/gtest.h>

#include <memory>

namespace freekv::cuda {
namespace {

constexpr int kSelected = 12;

SyntheticShape tiny_shape() {
  return {.layers = 2,
          .hidden = 256,
          .ffn = 512,
          .query_heads = 8,
          .vocab = 512,
          .kv = {.heads = 2, .head_dim = 64, .page = 32, .dtype = DType::kBF16},
          .qkv_bias = true,
          .head_norms = true};
}

RetrievalRule freekv_rule(float drift, float churn) {
  RetrievalRule rule{.budgeted = true, .slow = true, .selects = true, .speculative = true};
  rule.forced_drift = drift;
  rule.forced_churn = churn;
  return rule;
}

BenchCache cache_of(const RetrievalRule& rule, int64_t room) {
  return {.rule = rule,
          .pages = {.page = 32,
                    .budget = 512,
                    .sink = 2,
                    .window = 2,
                    .selected = kSelected,
                    .resident = kSelected},
          .room = room,
          .threads = 2};
}

class DeviceBenchTest : public testing::Test {
 protected:
  CudaBench bench_;
  std::unique_ptr<BenchModel> model_ = bench_.make_model(tiny_shape());
};

TEST_F(DeviceBenchTest, MeasuresTheMachine) {
  EXPECT_FALSE(bench_.machine().gpu.empty());
  EXPECT_GT(bench_.machine().sms, 0);
  EXPECT_GT(bench_.link_GB_s(), 0);
  EXPECT_GT(model_->weights().read_ms, 0);
  const size_t qkv = 12 * 64 * 256, others = 256 * 8 * 64 + 3 * 512 * 256;
  EXPECT_EQ(model_->weights().bytes, 2 * (2 * (qkv + others) + 512 * 256));
}

TEST_F(DeviceBenchTest, DecodesWithTheDriftAndChurnThatAreForced) {
  EXPECT_LE(model_->check_decode(cache_of({}, 640), cache_of(freekv_rule(0.5f, 0.25f), 640)), 1e-2);
  DeviceModel::Footprint announced;
  const DecodeRun run{.context = 2048,
                      .batch = 2,
                      .steps = 16,
                      .announce = [&](const DeviceModel::Footprint& size) { announced = size; }};
  const DecodeTimes times =
      model_->time_decode(cache_of(freekv_rule(0.5f, 0.25f), run.room()), run);
  EXPECT_GT(times.ms, 0);
  EXPECT_GE(times.steps, 3 * run.steps);
  EXPECT_GT(times.size.slow, times.size.fast);
  EXPECT_EQ(announced.slow, times.size.slow);
  const DeviceModel::LayerCounters& seen = times.counters;
  const auto share = [](uint64_t part, uint64_t whole) {
    return static_cast<double>(part) / static_cast<double>(whole);
  };
  EXPECT_NEAR(share(seen.drifted, seen.tested), 0.5, 0.25);
  EXPECT_NEAR(share(seen.misses_before + seen.misses_after, seen.pages_selected), 0.25, 0.1);

  const DecodeTimes still = model_->time_decode(cache_of(freekv_rule(0, 0), run.room()), run);
  EXPECT_EQ(still.counters.drifted, 0u);
  EXPECT_EQ(still.counters.misses_before + still.counters.misses_after, 0u);
  EXPECT_EQ(model_->time_decode(cache_of({}, run.room()), run).size.slow, 0u);
}

TEST_F(DeviceBenchTest, ReadsPrompts) {
  const BenchCache cache = cache_of(freekv_rule(-1, -1), 1024);
  const BenchModel::PrefillDifference difference = model_->check_prefill(cache);
  EXPECT_GT(difference.of_prompt, 0);  // other arithmetic
  const PrefillTimes times =
      model_->time_prefill(cache, {.tokens = 700, .chunk = 256, .rounds = 1});
  EXPECT_GT(times.ms, 0);
  EXPECT_GT(times.prefill_bytes, 0u);
  EXPECT_GT(times.peak_device_bytes, 0u);
  EXPECT_GT(times.slow_kv_bytes, 0u);
}

TEST_F(DeviceBenchTest, TimesRecallAlone) {
  const auto rates = bench_.time_gather({tiny_shape().kv, size_t{1} << 20, {1, 8}});
  ASSERT_EQ(rates.size(), 4u);
  EXPECT_EQ(rates[0].kernel, "gather");
  EXPECT_EQ(rates[3].kernel, "gather_loads");
  EXPECT_EQ(rates[3].ctas, 8);
  for (const GatherRate& rate : rates) EXPECT_GT(rate.GB_s, 0);
}

}  // namespace
}  // namespace freekv::cuda
