// Decode attention: SIMD against the scalar reference, on every SIMD target.
#include "backends/cpu/decode_attention.hpp"

#include <gtest/gtest.h>

#include "backends/kv_cases.hpp"
#include "backends/op_test.hpp"
#include "backends/reference/decode_attention.hpp"
#include "backends/reference/prefill_attention.hpp"
#include "freekv/error.hpp"

namespace freekv {
namespace {

constexpr float kScale = 0.125f;

std::vector<float> run_cpu(const cases::DecodeInputs& inputs, int threads, float scale = kScale) {
  ExecutionContext ctx(threads);
  cpu::DecodeAttentionScratch scratch;
  scratch.reserve(ctx, inputs.limits());
  std::vector<float> out = cases::poisoned(inputs.size());
  const View<const float, 3> q = inputs.q();
  cpu::decode_attention(ctx, scratch, q, inputs.rows(), scale,
                        View<float, 3>(out.data(), q.shape(0), q.shape(1), q.shape(2)));
  return out;
}

std::vector<float> run_reference(const cases::DecodeInputs& inputs, float scale = kScale) {
  ExecutionContext ctx(1);
  std::vector<float> out = cases::poisoned(inputs.size());
  const View<const float, 3> q = inputs.q();
  reference::decode_attention(ctx, q, inputs.rows(), scale,
                              View<float, 3>(out.data(), q.shape(0), q.shape(1), q.shape(2)));
  return out;
}

TEST(DecodeAttention, AgreesWithReference) {
  for (const cases::DecodeCase& c : cases::decode_cases()) {
    SCOPED_TRACE(c.name());
    const cases::DecodeInputs inputs(c);
    const std::vector<float> expected = run_reference(inputs);
    for_each_simd_target(
        [&] { EXPECT_LE(cases::relative_error(run_cpu(inputs, 1), expected), 2e-5); });
  }
}

// ln of the sum that the softmax divides by, whole or in splits.
TEST(DecodeAttention, GivesTheLogarithmOfItsMass) {
  for (const cases::DecodeCase& c : cases::decode_cases()) {
    SCOPED_TRACE(c.name());
    const cases::DecodeInputs inputs(c);
    const View<const float, 3> q = inputs.q();
    const auto run = [&](auto attend) {
      std::vector<float> out = cases::poisoned(inputs.size());
      std::vector<float> mass = cases::poisoned(q.shape(0) * q.shape(1));
      attend(View<float, 3>(out.data(), q.shape(0), q.shape(1), q.shape(2)),
             View<float, 2>(mass.data(), q.shape(0), q.shape(1)));
      return mass;
    };
    ExecutionContext ctx(2);
    const std::vector<float> expected = run([&](View<float, 3> out, View<float, 2> mass) {
      reference::decode_attention(ctx, q, inputs.rows(), kScale, out, mass);
    });
    for_each_simd_target([&] {
      cpu::DecodeAttentionScratch scratch;
      scratch.reserve(ctx, inputs.limits());
      const std::vector<float> got = run([&](View<float, 3> out, View<float, 2> mass) {
        cpu::decode_attention(ctx, scratch, q, inputs.rows(), kScale, out, mass);
      });
      for (size_t i = 0; i < got.size(); ++i) {
        if (std::isinf(expected[i])) {
          ASSERT_EQ(got[i], expected[i]);
        } else {
          ASSERT_NEAR(got[i], expected[i], 1e-5 * (1 + std::abs(expected[i])));
        }
      }
    });
  }
}

TEST(DecodeAttention, IsTheSameForAnyThreadCount) {
  for (const cases::DecodeCase& c : cases::decode_cases()) {
    SCOPED_TRACE(c.name());
    const cases::DecodeInputs inputs(c);
    const std::vector<float> one = run_cpu(inputs, 1);
    EXPECT_TRUE(same_bits(run_cpu(inputs, 2), one));
    EXPECT_TRUE(same_bits(run_cpu(inputs, 3), one));
  }
}

TEST(DecodeAttention, RowsDoNotDependOnTheBatch) {
  const cases::DecodeCase c{
      {2, 64, 32, DType::kF16}, KvLayout::kNHD, 4, {1, 700, 33, 1500, 0, 512}};
  const cases::DecodeInputs inputs(c);
  ExecutionContext ctx(2);
  cpu::DecodeAttentionScratch scratch;
  scratch.reserve(ctx, inputs.limits());
  const std::vector<float> batch = run_cpu(inputs, 2);
  for (size_t r = 0; r < inputs.rows().size(); ++r) {
    SCOPED_TRACE(r);
    std::vector<float> alone = cases::poisoned(inputs.row_size());
    cpu::decode_attention(
        ctx, scratch, View<const float, 3>(inputs.q()[static_cast<int64_t>(r)].data(), 1, 4, 64),
        inputs.rows().subspan(r, 1), kScale, View<float, 3>(alone.data(), 1, 4, 64));
    const std::span<const float> in_batch(batch.data() + r * alone.size(), alone.size());
    EXPECT_TRUE(same_bits(alone, in_batch));
  }
}

TEST(DecodeAttention, DoesNotDependOnPlacementOrLayout) {
  // The same K and V: PagedKv draws them from the seed alone, in the order of tokens.
  const cases::DecodeCase nhd{{2, 80, 16, DType::kBF16}, KvLayout::kNHD, 5, {300}};
  cases::DecodeCase hnd = nhd;
  hnd.layout = KvLayout::kHND;
  const std::vector<float> out = run_cpu(cases::DecodeInputs(nhd), 1);
  EXPECT_TRUE(same_bits(run_cpu(cases::DecodeInputs(hnd), 1), out));
}

TEST(DecodeAttention, SurvivesSharpAndHugeScores) {
  // Scores of several hundred: weights underflow, and a running maximum jumps.
  const cases::DecodeCase c{{1, 64, 32, DType::kF32}, KvLayout::kNHD, 4, {600, 1}};
  const cases::DecodeInputs inputs(c, 100.0f);
  const std::vector<float> expected = run_reference(inputs, 1.0f);
  for_each_simd_target(
      [&] { EXPECT_LE(cases::relative_error(run_cpu(inputs, 2, 1.0f), expected), 1e-2); });
}

TEST(DecodeAttention, ReferenceEqualsReferencePrefillToTheBit) {
  const KvShape shape{2, 64, 32, DType::kF16};
  const cases::DecodeCase c{shape, KvLayout::kNHD, 3, {100}};
  const cases::DecodeInputs inputs(c);
  const std::vector<float> decode = run_reference(inputs);
  ExecutionContext ctx(1);
  std::vector<float> prefill = cases::poisoned(inputs.size());
  // [1 token, 6 heads, 64] lies in memory as [2 KV heads, 3, 64] does.
  reference::prefill_attention(
      ctx, {View<const float, 3>(inputs.q().data(), 1, 6, 64), inputs.rows()[0].pool,
            inputs.rows()[0].slots, 99, kScale, View<float, 3>(prefill.data(), 1, 6, 64)});
  EXPECT_TRUE(same_bits(decode, prefill));
}

TEST(DecodeAttention, RefusesMoreThanWasReserved) {
  const cases::DecodeInputs small({{1, 64, 32, DType::kF16}, KvLayout::kNHD, 4, {600}});
  const cases::DecodeInputs longer({{1, 64, 32, DType::kF16}, KvLayout::kNHD, 4, {6000}});
  const cases::DecodeInputs more({{1, 64, 32, DType::kF16}, KvLayout::kNHD, 4, {60, 60}});
  ExecutionContext ctx(1);
  cpu::DecodeAttentionScratch scratch;
  scratch.reserve(ctx, small.limits());
  std::vector<float> out(static_cast<size_t>(more.size()));
  const auto run = [&](const cases::DecodeInputs& inputs) {
    const View<const float, 3> q = inputs.q();
    cpu::decode_attention(ctx, scratch, q, inputs.rows(), kScale,
                          View<float, 3>(out.data(), q.shape(0), q.shape(1), q.shape(2)));
  };
  EXPECT_NO_THROW(run(small));
  EXPECT_THROW(run(longer), Error);
  EXPECT_THROW(run(more), Error);
  AttentionRow bad = small.rows()[0];
  bad.last_tokens = 33;
  EXPECT_THROW(
      cpu::decode_attention(ctx, scratch, small.q(), std::span<const AttentionRow>(&bad, 1), kScale,
                            View<float, 3>(out.data(), 1, 4, 64)),
      Error);
}

}  // namespace
}  // namespace freekv
