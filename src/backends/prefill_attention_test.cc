// Prefill attention against the scalar reference, and the reference against its own decode form.
#include "backends/cpu/prefill_attention.hpp"

#include <gtest/gtest.h>

#include "backends/op_cases.hpp"
#include "backends/op_test.hpp"
#include "backends/reference/decode_attention.hpp"
#include "backends/reference/prefill_attention.hpp"
#include "freekv/error.hpp"

namespace freekv {
namespace {

using cases::PagedKv;
using cases::PrefillCase;

// The largest difference over all outputs: a score near 10 in f32 is off by 1e-6 before its exp.
constexpr double kTolerance = 3e-5;

class PrefillRun {
 public:
  explicit PrefillRun(const PrefillCase& c)
      : case_(c),
        kv_(c.shape, c.layout, c.position + c.tokens, 1),
        // Queries large enough for a few keys to take most of the mass, small enough for all to
        // have some.
        q_(cases::random_floats(size(), 2, 2.0f)) {}

  int64_t heads() const { return static_cast<int64_t>(case_.shape.heads) * case_.group; }
  int64_t size() const { return case_.tokens * heads() * case_.shape.head_dim; }

  std::vector<float> reference() const {
    ExecutionContext ctx(2);
    std::vector<float> out = cases::poisoned(size());
    reference::prefill_attention(ctx, params(0, case_.tokens, out));
    return out;
  }
  /// Through the SIMD backend, in chunks of at most `chunk` tokens.
  std::vector<float> cpu(int threads, int64_t chunk) const {
    ExecutionContext ctx(threads);
    BackendLimits limits;
    limits.heads = static_cast<int>(heads());
    limits.kv_heads = case_.shape.heads;
    limits.head_dim = case_.shape.head_dim;
    cpu::PrefillAttentionScratch scratch;
    scratch.reserve(ctx, limits);
    // Stale memory must not reach a result.
    std::ranges::fill(scratch.memory.as<float>(), std::numeric_limits<float>::quiet_NaN());
    std::vector<float> out = cases::poisoned(size());
    for (int64_t t = 0; t < std::max<int64_t>(case_.tokens, 1); t += chunk) {
      cpu::prefill_attention(ctx, scratch, params(t, std::min(chunk, case_.tokens - t), out));
    }
    return out;
  }
  /// The reference's decode attention, token by token.
  std::vector<float> reference_decode() const {
    ExecutionContext ctx(1);
    std::vector<float> out = cases::poisoned(size());
    const KvShape& shape = case_.shape;
    std::vector<AttentionRow> rows(static_cast<size_t>(shape.heads));
    for (int64_t t = 0; t < case_.tokens; ++t) {
      const int64_t visible = case_.position + t + 1;
      const int64_t pages = (visible + shape.page - 1) / shape.page;
      for (int m = 0; m < shape.heads; ++m) {
        rows[static_cast<size_t>(m)] = {kv_.pool(), m,
                                        kv_.slots().first(static_cast<size_t>(pages)),
                                        static_cast<int>(visible - (pages - 1) * shape.page)};
      }
      const int64_t offset = t * heads() * shape.head_dim;
      reference::decode_attention(
          ctx, View<const float, 3>(q_.data() + offset, shape.heads, case_.group, shape.head_dim),
          rows, scale(),
          View<float, 3>(out.data() + offset, shape.heads, case_.group, shape.head_dim));
    }
    return out;
  }

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(case_.shape.head_dim)); }
  PrefillAttention params(int64_t first, int64_t tokens, std::vector<float>& out) const {
    const int d = case_.shape.head_dim;
    const int64_t offset = first * heads() * d;
    const int64_t all = case_.position + first + tokens;
    const int64_t pages = (all + case_.shape.page - 1) / case_.shape.page;
    return {View<const float, 3>(q_.data() + offset, tokens, heads(), d),
            kv_.pool(),
            kv_.slots().first(static_cast<size_t>(pages)),
            case_.position + first,
            scale(),
            View<float, 3>(out.data() + offset, tokens, heads(), d)};
  }

  PrefillCase case_;
  PagedKv kv_;
  std::vector<float> q_;
};

TEST(PrefillAttention, AgreesWithReferenceForAnyThreadsAndChunks) {
  for (const PrefillCase& c : cases::prefill_cases()) {
    SCOPED_TRACE(c.name());
    const PrefillRun run(c);
    const std::vector<float> expected = run.reference();
    for_each_simd_target([&] {
      const std::vector<float> one = run.cpu(1, 512);
      EXPECT_LE(cases::relative_error(one, expected), kTolerance);
      for (const int threads : cases::kThreads) EXPECT_TRUE(same_bits(run.cpu(threads, 512), one));
      EXPECT_TRUE(same_bits(run.cpu(2, 29), one)) << "in chunks of 29";
    });
  }
}

TEST(PrefillAttention, ReferenceEqualsItsDecodeFormToTheBit) {
  for (const PrefillCase& c : cases::prefill_cases()) {
    SCOPED_TRACE(c.name());
    const PrefillRun run(c);
    EXPECT_TRUE(same_bits(run.reference(), run.reference_decode()));
  }
}

TEST(PrefillAttention, RefusesWhatDoesNotFit) {
  const PagedKv kv({1, 64, 32, DType::kF16}, KvLayout::kNHD, 64, 1);
  std::vector<float> q(128);
  std::vector<float> out(128);
  ExecutionContext ctx(1);
  BackendLimits limits;
  limits.heads = limits.kv_heads = 1;
  limits.head_dim = 64;
  cpu::PrefillAttentionScratch scratch;
  scratch.reserve(ctx, limits);
  PrefillAttention params{View<const float, 3>(q.data(), 2, 1, 64), kv.pool(), kv.slots(), 62, 1,
                          View<float, 3>(out.data(), 2, 1, 64)};
  EXPECT_NO_THROW(cpu::prefill_attention(ctx, scratch, params));
  params.position = 63;
  EXPECT_THROW(cpu::prefill_attention(ctx, scratch, params), Error);
  params.position = 0;
  const int32_t wrong[] = {0, 99};
  params.slots = wrong;
  EXPECT_THROW(cpu::prefill_attention(ctx, scratch, params), Error);
}

}  // namespace
}  // namespace freekv
