// What is particular to each of the methods that freekv is compared with.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "driver.hpp"

namespace freekv::invariants {
namespace {

using Pages = std::vector<int32_t>;

Scenario decode_scenario() {
  Scenario setup;
  setup.attend_in_prefill = false;
  return setup;
}

// Pages in a head's slots for selections.
std::set<int32_t> resident(TestSequence& sequence, int layer, int head) {
  const PageTable& table = sequence.cache.layer(layer).table();
  std::set<int32_t> pages;
  for (int32_t slot = 0; slot < table.slots(); ++slot) {
    if (table.page_in(head, slot) >= 0) pages.insert(table.page_in(head, slot));
  }
  return pages;
}

// Whatever leaves scored no higher than anything that stays although it was not selected.
TEST(ArkVale, EvictsTheLowestScore) {
  const Scenario setup = decode_scenario();
  Driver driver(setup, "arkvale:dense_layers=0,resident=2");
  const auto sequence = driver.make_sequence(7);
  driver.prefill(*sequence, 300);
  std::vector<std::set<int32_t>> before(static_cast<size_t>(setup.layers * setup.kv_heads));
  int evictions = 0;
  driver.on_rows = [&](LayerStep& step, std::span<TestSequence* const> batch) {
    LayerCache& layer = batch[0]->cache.layer(step.layer);
    const PageRange candidates = batch[0]->cache.layout().candidates(batch[0]->cache.tokens() + 1);
    for (int head = 0; head < setup.kv_heads; ++head) {
      std::vector<float> scores(static_cast<size_t>(setup.group * candidates.size()));
      const View<float, 2> view(scores.data(), setup.group, candidates.size());
      layer.sketches().score(driver.backend(), head, step.q[head], candidates.first, view);
      const auto mean = [&](int32_t page) {
        float sum = 0;
        for (int64_t g = 0; g < setup.group; ++g) sum += view[g][page - candidates.first];
        return sum / static_cast<float>(setup.group);
      };
      std::set<int32_t>& old = before[static_cast<size_t>(step.layer * setup.kv_heads + head)];
      const auto now = resident(*batch[0], step.layer, head);
      // The selected pages are those of highest score, so every page that stays is a bound.
      for (const int32_t gone : old) {
        if (now.count(gone)) continue;
        ++evictions;
        for (const int32_t page : now) EXPECT_LE(mean(gone), mean(page) + 1e-5f);
      }
      old = now;
    }
  };
  driver.decode(*sequence, 60);
  EXPECT_GT(evictions, 50);
}

}  // namespace
}  // namespace freekv::invariants
