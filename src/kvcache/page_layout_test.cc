#include "kvcache/page_layout.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "freekv/error.hpp"

namespace freekv {
namespace {

CacheConfig make_config(int64_t budget, int64_t sink, int64_t window, int page) {
  CacheConfig config;
  config.layers = 1;
  config.query_heads = 2;
  config.shape = {1, 8, page, DType::kF32};
  config.max_context = 4096;
  config.tokens = {budget, sink, window};
  return config;
}

TEST(PageLayout, CountsTheSpecificationsPages) {
  const PageLayout layout(make_config(2048, 128, 128, 32), {});
  EXPECT_EQ(layout.sink_pages(), 4);
  EXPECT_EQ(layout.window_pages(), 4);
  EXPECT_EQ(layout.selected(), 56);  // k of the paper's long-input setting
  EXPECT_FALSE(layout.over_budget(2048));
  EXPECT_TRUE(layout.over_budget(2049));
  EXPECT_EQ(layout.window_begin(3200), 96);  // floor((3200 - 128) / 32)
  EXPECT_EQ(layout.window_begin(3201), 96);
  EXPECT_EQ(layout.window(3201).size(), 5);
}

TEST(PageLayout, RoundsSinkAndWindowUp) {
  const PageLayout layout(make_config(512, 1, 33, 32), {});
  EXPECT_EQ(layout.sink_pages(), 1);
  EXPECT_EQ(layout.window_pages(), 2);
  EXPECT_EQ(layout.selected(), 13);
}

TEST(PageLayout, WithoutSelectionTheWindowTakesTheRest) {
  CacheNeeds needs;
  needs.selects = false;
  const PageLayout layout(make_config(512, 64, 64, 32), needs);
  EXPECT_EQ(layout.selected(), 0);
  EXPECT_EQ(layout.sink_pages() + layout.window_pages(), 16);
}

TEST(PageLayout, RefusesASmallBudgetWithBothValues) {
  try {
    PageLayout layout(make_config(159, 64, 64, 32), {});
    FAIL() << "a budget of 159 was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_EQ(error.message(), "budget is 159, must be at least sink + window + one page = 160");
  }
  EXPECT_NO_THROW(PageLayout(make_config(160, 64, 64, 32), {}));
  EXPECT_THROW(PageLayout(make_config(512, -1, 64, 32), {}), Error);
  EXPECT_THROW(PageLayout(make_config(512, 0, -1, 32), {}), Error);
}

struct Sizes {
  int64_t budget, sink, window;
  int page;
  double resident;
};

class Slots : public testing::TestWithParam<Sizes> {};

// Walks T over the budget: while T <= B all pages must have slots of their own, later sink, window
// and k selected pages, and the slot of the current page must never be one still attended.
TEST_P(Slots, NeverCollide) {
  const Sizes sizes = GetParam();
  CacheNeeds needs;
  needs.resident_factor = sizes.resident;
  const PageLayout layout(make_config(sizes.budget, sizes.sink, sizes.window, sizes.page), needs);
  for (int64_t t = 1; t <= 4 * sizes.budget; ++t) {
    std::set<int32_t> used;
    const auto take = [&](int32_t page) {
      const int32_t slot = layout.common_slot(page);
      ASSERT_GE(slot, 0);
      ASSERT_LT(slot, layout.budget_slots());
      ASSERT_TRUE(used.insert(slot).second) << "page " << page << " at T = " << t;
    };
    if (!layout.over_budget(t)) {
      for (int32_t page = 0; page < layout.pages(t); ++page) take(page);
      continue;
    }
    const PageRange window = layout.window(t);
    ASSERT_GE(t - int64_t{window.first} * sizes.page, std::min(t, sizes.window));
    ASSERT_LE(layout.sink_pages() + layout.selected() + window.size(), layout.attended_pages());
    for (int32_t page = 0; page < layout.sink_pages(); ++page) take(page);
    for (int32_t i = 0; i < layout.resident(); ++i) {
      used.insert(layout.first_selected_slot() + i);
    }
    for (int32_t page = window.first; page < window.last; ++page) take(page);
    // Every candidate is complete before this step, so it is sketched and in the slow tier.
    ASSERT_LE(int64_t{layout.candidates(t).last} * sizes.page, t - 1);
  }
}

// At T = B + 1 the selected slots hold pages sink .. sink + k - 1 in all heads, all complete.
TEST_P(Slots, HoldTheFirstCandidatesWhenTheBudgetIsCrossed) {
  const Sizes sizes = GetParam();
  CacheNeeds needs;
  needs.resident_factor = sizes.resident;
  const PageLayout layout(make_config(sizes.budget, sizes.sink, sizes.window, sizes.page), needs);
  for (int32_t i = 0; i < layout.selected(); ++i) {
    EXPECT_EQ(layout.common_slot(layout.sink_pages() + i), layout.first_selected_slot() + i);
  }
  EXPECT_LE(layout.sink_pages() + layout.selected(), layout.complete_pages(sizes.budget));
}

INSTANTIATE_TEST_SUITE_P(Sizes, Slots,
                         testing::Values(Sizes{512, 64, 64, 32, 1}, Sizes{512, 64, 64, 16, 2},
                                         Sizes{500, 64, 50, 32, 1}, Sizes{511, 1, 1, 64, 1.5},
                                         Sizes{96, 32, 32, 32, 1}, Sizes{97, 0, 32, 32, 1},
                                         Sizes{128, 0, 0, 32, 4}, Sizes{160, 32, 33, 31, 1}));

}  // namespace
}  // namespace freekv
