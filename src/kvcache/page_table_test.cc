#include "kvcache/page_table.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "freekv/error.hpp"

namespace freekv {
namespace {

constexpr int32_t kPages = 20;

// The same contract written the slow way: per head a list of (slot, page, last use).
struct NaiveHead {
  struct Slot {
    int32_t page = -1;
    int pins = 0;
    int64_t used = 0;
  };
  std::vector<Slot> slots;
  int64_t clock = 0;

  int32_t find(int32_t page) const {
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].page == page) return static_cast<int32_t>(i);
    }
    return -1;
  }
  // Victims one at a time: an empty slot if there is one, else the longest unused.
  std::vector<PageMove> plan(const std::vector<int32_t>& pages) const {
    std::vector<PageMove> moves;
    std::vector<bool> taken(slots.size(), false);
    for (const int32_t page : pages) {
      if (find(page) >= 0) continue;
      int32_t best = -1;
      for (size_t i = 0; i < slots.size(); ++i) {
        const Slot& s = slots[i];
        if (taken[i] || s.pins > 0) continue;
        if (s.page >= 0 && std::count(pages.begin(), pages.end(), s.page)) continue;
        if (best < 0) {
          best = static_cast<int32_t>(i);
          continue;
        }
        const Slot& b = slots[static_cast<size_t>(best)];
        if ((s.page < 0 && b.page >= 0) || ((s.page < 0) == (b.page < 0) && s.used < b.used)) {
          best = static_cast<int32_t>(i);
        }
      }
      if (best < 0) return {};
      taken[static_cast<size_t>(best)] = true;
      moves.push_back({page, best});
    }
    return moves;
  }
  void commit(const std::vector<int32_t>& pages, const std::vector<PageMove>& moves) {
    for (const PageMove& m : moves) slots[static_cast<size_t>(m.slot)].page = m.page;
    ++clock;
    for (const int32_t page : pages) slots[static_cast<size_t>(find(page))].used = clock;
  }
};

void expect_equal(const PageTable& table, const std::vector<NaiveHead>& naive) {
  for (int head = 0; head < table.heads(); ++head) {
    const NaiveHead& model = naive[static_cast<size_t>(head)];
    for (int32_t slot = 0; slot < table.slots(); ++slot) {
      RC_ASSERT(table.page_in(head, slot) == model.slots[static_cast<size_t>(slot)].page);
    }
    for (int32_t page = 0; page < kPages; ++page) {
      RC_ASSERT(table.slot_of(head, page) == model.find(page));
    }
  }
}

std::vector<int32_t> pick_pages(int32_t count) {
  auto pages = *rc::gen::container<std::vector<int32_t>>(static_cast<size_t>(count),
                                                         rc::gen::inRange(0, kPages));
  std::sort(pages.begin(), pages.end());
  pages.erase(std::unique(pages.begin(), pages.end()), pages.end());
  return pages;
}

RC_GTEST_PROP(PageTable, EqualsANaiveModelUnderRandomOperations, ()) {
  const int heads = *rc::gen::inRange(1, 4);
  const int32_t slots = *rc::gen::inRange(1, 9);
  PageTable table(heads, slots, kPages);
  std::vector<NaiveHead> naive(static_cast<size_t>(heads));
  for (NaiveHead& model : naive) model.slots.resize(static_cast<size_t>(slots));
  const int operations = *rc::gen::inRange(1, 60);
  std::vector<PageMove> moves(kPages);
  for (int i = 0; i < operations; ++i) {
    const int head = *rc::gen::inRange(0, heads);
    NaiveHead& model = naive[static_cast<size_t>(head)];
    const int32_t slot = *rc::gen::inRange(0, slots);
    auto& state = model.slots[static_cast<size_t>(slot)];
    switch (*rc::gen::inRange(0, 8)) {
      case 0:
        table.pin(head, slot);
        ++state.pins;
        break;
      case 1:
        if (state.pins == 0) {
          RC_ASSERT_THROWS_AS(table.unpin(head, slot), Error);
        } else {
          table.unpin(head, slot);
          --state.pins;
        }
        break;
      case 2:
        if (state.pins > 0) {
          RC_ASSERT_THROWS_AS(table.evict(head, slot), Error);
        } else {
          table.evict(head, slot);
          state.page = -1;
        }
        break;
      case 3: {
        if (*rc::gen::inRange(0, 4) != 0) break;
        const int32_t count = *rc::gen::inRange(0, slots + 1);
        const int32_t first = *rc::gen::inRange(0, kPages - count + 1);
        table.assign_all(first, count);
        for (NaiveHead& each : naive) {
          each.clock = 0;
          for (int32_t s = 0; s < slots; ++s) {
            each.slots[static_cast<size_t>(s)] = {s < count ? first + s : -1, 0, 0};
          }
        }
        break;
      }
      default: {
        const auto pages = pick_pages(*rc::gen::inRange(0, slots + 1));
        const auto expected = model.plan(pages);
        const auto missing = static_cast<size_t>(std::count_if(
            pages.begin(), pages.end(), [&](int32_t page) { return model.find(page) < 0; }));
        if (missing != expected.size()) {
          RC_ASSERT_THROWS_AS(table.plan(head, pages, moves), Error);
          break;
        }
        const int32_t n = table.plan(head, pages, moves);
        const std::vector<PageMove> planned(moves.begin(), moves.begin() + n);
        RC_ASSERT(planned == expected);
        expect_equal(table, naive);  // planning changes nothing
        table.commit(head, pages, planned);
        model.commit(pages, expected);
      }
    }
    expect_equal(table, naive);
  }
}

TEST(PageTable, MovesOnlyMissesAndEvictsTheLeastRecentlyUsed) {
  PageTable table(1, 3, kPages);
  std::vector<PageMove> moves(3);
  const auto use = [&](std::vector<int32_t> pages) {
    const auto n = static_cast<size_t>(table.plan(0, pages, moves));
    const std::vector<PageMove> planned(moves.begin(), moves.begin() + static_cast<ptrdiff_t>(n));
    table.commit(0, pages, planned);
    return planned;
  };
  EXPECT_EQ(use({1, 2}), (std::vector<PageMove>{{1, 0}, {2, 1}}));
  EXPECT_EQ(use({2, 3}), (std::vector<PageMove>{{3, 2}}));
  EXPECT_EQ(use({1, 3}), (std::vector<PageMove>{}));
  EXPECT_EQ(use({4}), (std::vector<PageMove>{{4, 1}}));  // page 2 was used longest ago
  table.clear();
  EXPECT_EQ(table.slot_of(0, 1), -1);
  EXPECT_EQ(use({7}), (std::vector<PageMove>{{7, 0}}));
}

TEST(PageTable, RefusesWhatIsOutOfRange) {
  PageTable table(2, 3, kPages);
  EXPECT_THROW(table.slot_of(0, kPages), Error);
  EXPECT_THROW(table.slot_of(2, 0), Error);
  EXPECT_THROW(table.page_in(0, 3), Error);
  EXPECT_THROW(table.assign_all(0, 4), Error);
}

TEST(PageTable, LetsPagesOfLeastWorthLeave) {
  PageTable table(1, 4, kPages);
  const float values[] = {9, 5, NAN, 7};
  const PageWorth worth{2, values};
  std::vector<PageMove> moves(4);
  const auto plan = [&](std::vector<int32_t> pages) {
    return std::vector<PageMove>(moves.begin(), moves.begin() + table.plan(0, pages, moves, worth));
  };
  table.assign_all(2, 4);  // slots hold 2, 3, 4, 5 of worth 9, 5, NaN, 7
  EXPECT_EQ(plan({6}), (std::vector<PageMove>{{6, 2}}));
  EXPECT_EQ(plan({6, 7}), (std::vector<PageMove>{{6, 2}, {7, 1}}));
  EXPECT_EQ(plan({6, 7, 3}), (std::vector<PageMove>{{6, 2}, {7, 3}}));
  // However recently it was used.
  table.commit(0, std::vector<int32_t>{4}, {});
  EXPECT_EQ(plan({6}), (std::vector<PageMove>{{6, 2}}));
}

}  // namespace
}  // namespace freekv
