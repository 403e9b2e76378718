// The device's choice of pages and slots against the CPU's own code: pooling and top-k of the
// reference backend, and PageTable.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "choose_pages_harness.hpp"

namespace freekv::cuda {
namespace {

void run_random_steps(const World& world, int steps) {
  SCOPED_TRACE(world.name());
  ChoosePagesHarness harness(world);
  // From no candidate at all past k to as many as there may be.
  std::vector<int> candidates = {0, world.k - 1, world.k + 1};
  for (int i = 0; i < steps; ++i) {
    SCOPED_TRACE("step " + std::to_string(i));
    ASSERT_NO_FATAL_FAILURE(harness.check(random_step(harness, world, candidates)));
    ASSERT_FALSE(testing::Test::HasNonfatalFailure());
    for (int& n : candidates) n = std::min(n + harness.roll(4), world.max_candidates);
  }
}

TEST(ChoosePages, EqualTheCpusChoiceOfPagesAndSlots) {
  for (const Pooling pooling :
       {Pooling::kMeanSoftmax, Pooling::kMaxSoftmax, Pooling::kMeanScore, Pooling::kMaxScore}) {
    for (const int factor : {1, 3}) {
      run_random_steps({.k = 8, .resident = 8 * factor, .pooling = pooling}, 40);
      run_random_steps({.heads = 1,
                        .group = 7,
                        .k = 33,
                        .resident = 33 * factor,
                        .max_candidates = 90,
                        .pooling = pooling},
                       40);
    }
    run_random_steps({.heads = 3, .group = 1, .k = 1, .resident = 2, .pooling = pooling}, 20);
    run_random_steps({.heads = 1, .group = 16, .k = 5, .resident = 70, .pooling = pooling}, 20);
  }
}

TEST(ChoosePages, ManyCandidatesAndSlots) {
  // Around what stays in shared memory (16384), and far more.
  for (const int n : {4096, 16384, 16385, 65536}) {
    for (const Pooling pooling : {Pooling::kMeanSoftmax, Pooling::kMaxScore}) {
      const World world{.heads = 1,
                        .group = n > 20000 ? 2 : 5,
                        .k = n == 4096 ? 56 : 130,
                        .resident = n == 4096 ? 168 : 2000,
                        .max_candidates = n,
                        .pooling = pooling};
      SCOPED_TRACE(world.name());
      ChoosePagesHarness harness(world);
      for (int i = 0; i < 3; ++i) {
        ASSERT_NO_FATAL_FAILURE(
            harness.check(random_step(harness, world, {n - 3 + i, world.k + 1, n / 2})));
      }
    }
  }
}

TEST(ChoosePages, AThousandSelected) {
  const World world{.heads = 1, .group = 2, .k = 1100, .resident = 2100, .max_candidates = 5000};
  ChoosePagesHarness harness(world);
  for (const int n : {1100, 1101, 2500, 5000}) {
    ASSERT_NO_FATAL_FAILURE(harness.check(random_step(harness, world, {n, n, n})));
  }
}

// --- forced churn --------------------------------------------------------------------------------

Step step_of_all(const ChoosePagesHarness& harness, int n) {
  Step step;
  step.candidates.assign(ChoosePagesHarness::kSequences, n);
  step.mode.assign(harness.rows(), step.which);
  return step;
}

std::vector<std::vector<int32_t>> selections(ChoosePagesHarness& harness) {
  std::vector<std::vector<int32_t>> all;
  for (size_t row = 0; row < harness.rows(); ++row) all.push_back(harness.selected(row));
  return all;
}

// Ascending, distinct, candidates; returns how many are not in `last`.
int expect_selection(const std::vector<int32_t>& pages, const std::vector<int32_t>& last, int k,
                     int sink, int n) {
  EXPECT_EQ(static_cast<int>(pages.size()), k);
  EXPECT_TRUE(std::is_sorted(pages.begin(), pages.end(), std::less_equal<>()));
  EXPECT_GE(pages.front(), sink);
  EXPECT_LT(pages.back(), sink + n);
  int fresh = 0;
  for (const int32_t page : pages) fresh += !std::binary_search(last.begin(), last.end(), page);
  return fresh;
}

TEST(ChoosePages, ForcedChurnReplacesItsShare) {
  for (const float share : {0.0f, 0.25f, 1.0f}) {
    const World world{.k = 100, .resident = 100, .max_candidates = 1000, .churn = share};
    ChoosePagesHarness harness(world), again(world);
    std::vector<std::vector<int32_t>> last;
    int fresh = 0, of = 0;
    for (int step = 0; step < 12; ++step) {
      const int n = 900 + step;
      harness.launch(step_of_all(harness, n));
      again.launch(step_of_all(again, n));
      const auto now = selections(harness);
      ASSERT_EQ(selections(again), now) << "chance must come from the hash alone";
      for (size_t row = 0; row < now.size(); ++row) {
        const std::vector<int32_t> none;
        const int changed =
            expect_selection(now[row], step > 0 ? last[row] : none, 100, harness.sink(), n);
        // Without slots nothing says what was selected: there all of it is drawn anew.
        if (step > 0 && harness.sequence_of(row).budgeted) fresh += changed, of += 100;
      }
      last = now;
    }
    EXPECT_NEAR(static_cast<double>(fresh) / of, share, share > 0 && share < 1 ? 0.03 : 0);
  }
}

TEST(ChoosePages, ForcedChurnWithLittleToDrawFrom) {
  const World world{.k = 60, .resident = 60, .max_candidates = 61, .churn = 0.9f};
  ChoosePagesHarness harness(world);
  // All candidates first, then a selection that is too short for k, then collisions everywhere.
  for (const int n : {50, 61, 61, 61}) {
    harness.launch(step_of_all(harness, n));
    for (const std::vector<int32_t>& pages : selections(harness)) {
      expect_selection(pages, {}, std::min(n, 60), harness.sink(), n);
    }
  }
}

}  // namespace
}  // namespace freekv::cuda
