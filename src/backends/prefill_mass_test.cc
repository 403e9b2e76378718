// The attention mass of pages in a chunk: SIMD against the scalar reference, and what the sums have
// to be.
#include "backends/cpu/prefill_mass.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "backends/op_cases.hpp"
#include "backends/op_test.hpp"
#include "backends/reference/prefill_mass.hpp"
#include "freekv/error.hpp"

namespace freekv {
namespace {

using cases::PagedKv;
using cases::PrefillCase;

// Of a page's mass, which many queries add to: as for prefill attention, times their number.
constexpr double kTolerance = 3e-5;

class MassRun {
 public:
  MassRun(const PrefillCase& c, int unit)
      : case_(c),
        unit_(unit),
        kv_(c.shape, c.layout, c.position + c.tokens, 1),
        q_(cases::random_floats(c.tokens * heads() * c.shape.head_dim, 2, 2.0f)) {}

  int64_t heads() const { return static_cast<int64_t>(case_.shape.heads) * case_.group; }
  int64_t pages() const { return static_cast<int64_t>(kv_.slots().size()); }
  /// Two more than there are pages or tokens.
  int64_t entries() const { return (case_.position + case_.tokens + unit_ - 1) / unit_ + 2; }

  std::vector<double> reference() const {
    ExecutionContext ctx(2);
    std::vector<double> mass = started();
    reference::prefill_mass(ctx, params(0, case_.tokens, mass));
    return mass;
  }
  /// Through the SIMD backend, in chunks of at most `chunk` tokens, with scratch for so many pages.
  std::vector<double> cpu(int threads, int64_t chunk, int64_t reserved) const {
    ExecutionContext ctx(threads);
    BackendLimits limits;
    limits.heads = static_cast<int>(heads());
    limits.kv_heads = case_.shape.heads;
    limits.head_dim = case_.shape.head_dim;
    limits.max_pages = reserved;
    limits.page = case_.shape.page;
    cpu::PrefillMassScratch scratch;
    scratch.reserve(ctx, limits);
    // Stale memory must not reach a result.
    std::ranges::fill(scratch.blocks.as<float>(), std::numeric_limits<float>::quiet_NaN());
    std::ranges::fill(scratch.shares.as<float>(), std::numeric_limits<float>::quiet_NaN());
    std::vector<double> mass = started();
    for (int64_t t = 0; t < case_.tokens; t += chunk) {
      cpu::prefill_mass(ctx, scratch, params(t, std::min(chunk, case_.tokens - t), mass));
    }
    return mass;
  }
  /// What is there before, which is added to.
  std::vector<double> started() const {
    return std::vector<double>(static_cast<size_t>(case_.shape.heads * entries()), 0.5);
  }

  PrefillMass params(int64_t first, int64_t tokens, std::vector<double>& mass) const {
    const int d = case_.shape.head_dim;
    const int64_t all = case_.position + first + tokens;
    return {View<const float, 3>(q_.data() + first * heads() * d, tokens, heads(), d),
            kv_.pool(),
            kv_.slots().first(static_cast<size_t>((all + case_.shape.page - 1) / case_.shape.page)),
            case_.position + first,
            1.0f / std::sqrt(static_cast<float>(d)),
            View<double, 2>(mass.data(), case_.shape.heads, entries()),
            unit_};
  }

 private:
  PrefillCase case_;
  int unit_;
  PagedKv kv_;
  std::vector<float> q_;
};

// Runs of every case, by page and by token.
template <typename Body>
void for_each_run(Body&& body) {
  for (const PrefillCase& c : cases::prefill_cases()) {
    for (const int unit : {c.shape.page, 1}) {
      SCOPED_TRACE(testing::Message() << c.name() << " by " << unit);
      body(c, MassRun(c, unit));
    }
  }
}

TEST(PrefillMass, AgreesWithReferenceForAnyThreadsAndChunks) {
  for_each_run([](const PrefillCase&, const MassRun& run) {
    const std::vector<double> expected = run.reference();
    for_each_simd_target([&] {
      const std::vector<double> one = run.cpu(1, 512, run.pages());
      ASSERT_EQ(one.size(), expected.size());
      for (size_t i = 0; i < one.size(); ++i) {
        ASSERT_NEAR(one[i], expected[i], kTolerance * std::max(1.0, expected[i])) << i;
      }
      for (const int threads : cases::kThreads) {
        EXPECT_EQ(run.cpu(threads, 512, run.pages()), one);
      }
      EXPECT_EQ(run.cpu(2, 29, run.pages()), one) << "in chunks of 29";
      // A longer sequence than this has room for the shares of more tokens at a time.
      EXPECT_EQ(run.cpu(2, 512, 40 * run.pages()), one);
    });
  });
}

TEST(PrefillMass, OfEveryTokenIsOne) {
  for_each_run([](const PrefillCase& c, const MassRun& run) {
    const std::vector<double> mass = run.reference(), before = run.started();
    const double added = std::accumulate(mass.begin(), mass.end(), 0.0) -
                         std::accumulate(before.begin(), before.end(), 0.0);
    EXPECT_NEAR(added, static_cast<double>(c.tokens * c.shape.heads), 1e-9 * (1 + added));
  });
}

TEST(PrefillMass, RefusesWhatDoesNotFit) {
  const MassRun run({{2, 64, 32, DType::kF16}, KvLayout::kNHD, 2, 62, 2}, 32);
  ExecutionContext ctx(1);
  BackendLimits limits;
  limits.heads = 4;
  limits.kv_heads = 2;
  limits.head_dim = 64;
  limits.max_pages = 2;
  cpu::PrefillMassScratch scratch;
  scratch.reserve(ctx, limits);
  std::vector<double> mass = run.started();
  const auto refused = [&](const PrefillMass& params) {
    EXPECT_THROW(cpu::prefill_mass(ctx, scratch, params), Error);
    EXPECT_THROW(reference::prefill_mass(ctx, params), Error);
  };
  PrefillMass params = run.params(0, 2, mass);
  EXPECT_NO_THROW(cpu::prefill_mass(ctx, scratch, params));
  params.position = 63;
  refused(params);
  params = run.params(0, 2, mass);
  params.mass = View<double, 2>(mass.data(), 2, 1);
  refused(params);
  params.mass = View<double, 2>(mass.data(), 1, 2);
  refused(params);
  params = run.params(0, 2, mass);
  params.unit = 16;
  refused(params);
  params = run.params(0, 2, mass);
  const int32_t wrong[] = {0, 99};
  params.slots = wrong;
  refused(params);
}

}  // namespace
}  // namespace freekv
