// Every page that attention reads is the right one: slots are compared with a plain copy of all KV
// and with the slow tier, at every layer of every step.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "driver.hpp"
#include "specifications.hpp"

namespace freekv::invariants {
namespace {

// Whether K and V of one head agree in `tokens` tokens of two slots: to the bit, or keys to within
// `key_error` of the largest numbers the inputs give.
bool same_page(const KvPool& a, int32_t a_slot, const KvPool& b, int32_t b_slot, int head,
               int tokens, float key_error) {
  const size_t bytes = a.shape.token_bytes();
  const auto same_key = [&](const std::byte* x, const std::byte* y) {
    if (key_error == 0) return std::memcmp(x, y, bytes) == 0;
    for (int e = 0; e < a.shape.head_dim; ++e) {
      const float error = load_element(a.shape.dtype, x, e) - load_element(a.shape.dtype, y, e);
      if (!(std::abs(error) <= key_error)) return false;
    }
    return true;
  };
  for (int t = 0; t < tokens; ++t) {
    const size_t at_a = static_cast<size_t>(t) * a.token_stride();
    const size_t at_b = static_cast<size_t>(t) * b.token_stride();
    if (!same_key(a.keys(a_slot, head) + at_a, b.keys(b_slot, head) + at_b) ||
        std::memcmp(a.values(a_slot, head) + at_a, b.values(b_slot, head) + at_b, bytes) != 0) {
      return false;
    }
  }
  return true;
}

// The row must be sink pages, then selected pages in ascending order, then the window to the
// current token, each slot holding exactly that page.
void check_row(const Scenario& setup, const AttentionRow& row, TestSequence& sequence, int layer,
               int head, float key_error) {
  const int64_t t = sequence.cache.tokens() + 1;
  const PageLayout& layout = sequence.cache.layout();
  const KvPool& plain = sequence.plain.pool(layer);
  ASSERT_EQ(row.kv_head, head);
  ASSERT_EQ(row.last_tokens, (t - 1) % setup.page + 1);
  const auto pages = static_cast<int32_t>((t + setup.page - 1) / setup.page);
  const auto count = static_cast<int32_t>(row.slots.size());
  const bool all = count == pages;
  if (!all) {
    ASSERT_GT(t, setup.tokens.budget) << "pages are left out within the budget";
    ASSERT_LE(count, layout.attended_pages());
    // The current page is unfinished: at most that much more than the budget, unless the policy
    // asked to attend to more than one selection.
    const int32_t more = layout.attended_selected() - layout.selected();
    ASSERT_LT((count - 1) * setup.page + row.last_tokens,
              setup.tokens.budget + (more + 1) * setup.page);
  }
  const int32_t sink = all ? 0 : layout.sink_pages();
  const int32_t window = all ? pages : pages - layout.window(t).first;
  ASSERT_GE(int64_t{window} * setup.page, std::min(t, setup.tokens.window));
  int32_t page = 0;
  for (int32_t i = 0; i < count; ++i) {
    const auto slot = row.slots[static_cast<size_t>(i)];
    const int tokens = i == count - 1 ? row.last_tokens : setup.page;
    if (i < sink) {
      page = i;
    } else if (i >= count - window) {
      page = pages - (count - i);
    } else {
      // A selected page: whichever of the candidates it is, after those before it.
      const int32_t end = pages - window;
      while (page < end && !same_page(row.pool, slot, plain, page, head, tokens, key_error)) {
        ++page;
      }
      ASSERT_LT(page, end) << "slot " << slot << " holds no candidate";
    }
    ASSERT_TRUE(same_page(row.pool, slot, plain, page, head, tokens, key_error))
        << "layer " << layer << ", head " << head << ", page " << page << " in slot " << slot;
    ++page;
  }
}

// Whatever the page table says is resident holds what the slow tier holds.
void check_slots(TestSequence& sequence, int layer, float key_error) {
  LayerCache& cache = sequence.cache.layer(layer);
  if (!cache.plan().slow) return;
  const PageTable& table = cache.table();
  for (int head = 0; head < table.heads(); ++head) {
    for (int32_t slot = 0; slot < table.slots(); ++slot) {
      const int32_t page = table.page_in(head, slot);
      if (page < 0) continue;
      ASSERT_TRUE(same_page(cache.fast(), slot + sequence.cache.layout().first_selected_slot(),
                            cache.slow()->pool(), page, head, cache.fast().shape.page, key_error))
          << "layer " << layer << ", head " << head << ", page " << page;
    }
  }
}

class Contents : public testing::TestWithParam<std::string> {};

void run_checked(Scenario setup, const std::string& specification, int64_t prompt, int steps) {
  SCOPED_TRACE(testing::Message() << "page " << setup.page << ", prompt " << prompt);
  setup.attend_in_prefill = false;
  const bool rebuilds = testing_support::rebuilds_keys(specification);
  const float key_error = rebuilds ? 0.01f : 0;  // some units of an f16 of this size
  Driver driver(setup, specification);
  const auto sequence = driver.make_sequence(3);
  int64_t rows = 0;
  driver.on_rows = [&](LayerStep& step, std::span<TestSequence* const> batch) {
    for (int head = 0; head < setup.kv_heads; ++head) {
      check_row(setup, step.rows[static_cast<size_t>(head)], *batch[0], step.layer, head,
                key_error);
      ++rows;
    }
  };
  driver.on_layer_done = [&](LayerStep& step, std::span<TestSequence* const> batch) {
    if (batch[0]->cache.tokens() + 1 <= setup.tokens.budget) return;
    batch[0]->cache.finish_recall(step.ctx, step.layer);
    check_slots(*batch[0], step.layer, key_error);
  };
  driver.prefill(*sequence, prompt);
  driver.decode(*sequence, steps);
  EXPECT_EQ(rows, int64_t{steps} * setup.layers * setup.kv_heads);

  // Pages went to the slow tier once, when they filled, and the counters say so.
  const CacheConfig config = setup.cache_config();
  uint64_t offloaded = 0;
  for (int layer = 0; layer < setup.layers; ++layer) {
    if (!sequence->cache.layer(layer).plan().slow) continue;
    offloaded += static_cast<uint64_t>((prompt + steps) / setup.page) * config.shape.slot_bytes();
  }
  const RetrievalStats& stats = sequence->cache.stats();
  EXPECT_EQ(stats.bytes_offloaded, offloaded);
  EXPECT_EQ(stats.pages_selected, stats.hits + stats.misses_before + stats.misses_after);
  const uint64_t missed =
      (stats.misses_before + stats.misses_after) * config.shape.head_page_bytes();
  EXPECT_LE(stats.bytes_recalled, missed);
  EXPECT_GE(stats.bytes_recalled, rebuilds ? missed / 2 : missed);
  EXPECT_LE(stats.drifted(), stats.corrections_tested);
}

TEST_P(Contents, OfEveryAttendedPage) {
  Scenario setup;
  // Growing over the budget; a prompt past it; one shorter than the sink; whole pages.
  run_checked(setup, GetParam(), 0, 140);
  run_checked(setup, GetParam(), 225, 50);
  setup.tokens = {112, 32, 32};
  run_checked(setup, GetParam(), 9, 120);
  run_checked(setup, GetParam(), 208, 40);
}

TEST_P(Contents, OfPagesOfOtherSizes) {
  Scenario setup;
  setup.dim = 8;
  setup.page = 32;
  setup.tokens = {160, 32, 32};
  run_checked(setup, GetParam(), 150, 70);
  setup.page = 64;
  setup.tokens = {256, 64, 64};
  run_checked(setup, GetParam(), 330, 70);
}

INSTANTIATE_TEST_SUITE_P(Policies, Contents, testing::ValuesIn(all_specifications()),
                         [](const auto& info) { return test_name(info.param); });

}  // namespace
}  // namespace freekv::invariants
