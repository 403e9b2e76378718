// Coverage-guided correction on the device against the host's own code.
#include "cover_pages_harness.hpp"

#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

using namespace cover_test;

// Steps with ever more candidates; scores from flat, where many pages are missing and each weighs
// little, to sharp.
void run_steps(const World& world, int steps, int* corrected = nullptr, int* left = nullptr) {
  SCOPED_TRACE(world.name());
  CoverHarness harness(world);
  std::vector<int> candidates = {1, world.k + 1};
  for (int i = 0; i < steps; ++i) {
    SCOPED_TRACE("step " + std::to_string(i));
    constexpr float kSharp[] = {0.5f, 2, 6};
    const int dense = i % 4 == 3 ? harness.roll(static_cast<int>(harness.rows())) : -1;
    ASSERT_NO_FATAL_FAILURE(harness.check(candidates, kSharp[i % 3], dense));
    ASSERT_FALSE(testing::Test::HasNonfatalFailure());
    for (int& n : candidates) n = std::min(n + harness.roll(5), world.max_candidates);
  }
  if (corrected) *corrected += harness.corrected;
  if (left) *left += harness.left;
}

TEST(CoverPages, EqualTheHostsChoiceOfPagesAndSlots) {
  int corrected = 0, left = 0;
  for (const double epsilon : {0.05, 0.3}) {
    for (const int factor : {1, 2, 3}) {
      run_steps({.k = 8, .resident = 8 * factor, .epsilon = epsilon}, 40, &corrected, &left);
      run_steps({.heads = 1,
                 .group = 7,
                 .k = 33,
                 .resident = 33 * factor,
                 .max_candidates = 90,
                 .epsilon = epsilon},
                40, &corrected, &left);
    }
    run_steps({.heads = 3, .group = 1, .k = 1, .resident = 2, .sink = 0, .epsilon = epsilon}, 20);
    run_steps({.heads = 1, .group = 16, .k = 70, .resident = 105, .epsilon = epsilon}, 30);
  }
  EXPECT_GT(corrected, 100);
  EXPECT_GT(left, 100);
}

TEST(CoverPages, EpsilonZeroWaitsForAllAndOneForNone) {
  int corrected = 0, left = 0;
  run_steps({.epsilon = 0}, 20, &corrected, &left);
  EXPECT_GT(corrected, 20);
  EXPECT_EQ(left, 0);
  corrected = 0;
  run_steps({.epsilon = 1.5}, 20, &corrected, &left);
  EXPECT_EQ(corrected, 0);
  EXPECT_GT(left, 20);
}

TEST(CoverPages, ManyCandidatesAndSlots) {
  // Around what stays in shared memory (8192), and tables looked up in global memory.
  for (const int n : {8192, 8193, 40000}) {
    const World world{.heads = 1, .group = 2, .k = 130, .resident = 300, .max_candidates = n};
    SCOPED_TRACE(world.name());
    CoverHarness harness(world);
    for (int i = 0; i < 3; ++i) {
      ASSERT_NO_FATAL_FAILURE(harness.check({n - 2 + i, n / 2}, 2.0f + static_cast<float>(i), -1));
      ASSERT_FALSE(testing::Test::HasNonfatalFailure());
    }
  }
}

TEST(CoverPages, RefusesWhatIsNoMass) {
  SelectParams params;
  params.batch.n = 1;
  params.kv = {1, 1, 128, kPage, KvType::kBF16};
  params.map.selected = params.map.resident = 4;
  params.mass = true;
  const auto refused = [](SelectParams changed) {
    EXPECT_THROW(cover_pages({changed, nullptr, 0.05}, nullptr), Error);
  };
  SelectParams scaled = params, pooled = params, narrow = params;
  scaled.scale = 0.125f;
  refused(scaled);
  pooled.pooling = Pooling::kMaxScore;
  refused(pooled);
  narrow.map.resident = 8;  // two selections may be attended to then
  refused(narrow);
}

}  // namespace
}  // namespace freekv::cuda
