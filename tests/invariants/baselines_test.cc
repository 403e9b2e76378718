// What is particular to each of the methods that freekv is compared with.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
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
      layer.sketches().score(driver.backend(), head, {step.q[head], step.scale}, candidates.first,
                             view);
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

// The estimated attention mass of pages for a query [G, d]: all channels, plain loops.
std::vector<double> page_mass(const PlainCopy& plain, int layer, int head, View<const float, 2> q,
                              PageRange pages) {
  const KvPool& pool = plain.pool(layer);
  std::vector<double> mass(static_cast<size_t>(pages.size()));
  for (int64_t g = 0; g < q.shape(0); ++g) {
    std::vector<double> sums(mass.size());
    double total = 0;
    for (int32_t page = pages.first; page < pages.last; ++page) {
      for (int t = 0; t < pool.shape.page; ++t) {
        double dot = 0;
        const std::byte* key = pool.keys(page, head) + static_cast<size_t>(t) * pool.token_stride();
        for (int64_t e = 0; e < q.shape(1); ++e) {
          dot += static_cast<double>(q[g][e]) * load_element(pool.shape.dtype, key, e);
        }
        const double weight = std::exp(dot / std::sqrt(static_cast<double>(q.shape(1))));
        sums[static_cast<size_t>(page - pages.first)] += weight;
        total += weight;
      }
    }
    for (size_t j = 0; j < mass.size(); ++j) mass[j] += sums[j] / total;
  }
  return mass;
}

std::set<int32_t> heaviest(const std::vector<double>& mass, int32_t first, int32_t k) {
  std::vector<int32_t> order(mass.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return mass[static_cast<size_t>(a)] > mass[static_cast<size_t>(b)];
  });
  std::set<int32_t> pages;
  for (int32_t i = 0; i < k; ++i) pages.insert(first + order[static_cast<size_t>(i)]);
  return pages;
}

// When a layer is done the next one's pages are chosen, by the query that the model predicts from
// this layer's input, before that layer has seen a query of its own; and they are attended to.
TEST(InfiniGen, ChoosesBeforeTheLayersOwnQueryExists) {
  const Scenario setup = decode_scenario();
  for (const char* ratio : {"1", "0.3"}) {
    Driver driver(setup, std::string("infinigen:ratio=") + ratio);
    const FakeModel model(setup.kv_heads, setup.group, setup.dim);
    const auto sequence = driver.make_sequence(23);
    driver.prefill(*sequence, 200);
    std::vector<float> memory(static_cast<size_t>(setup.kv_heads * setup.group * setup.dim));
    const View<float, 3> q(memory.data(), setup.kv_heads, setup.group, setup.dim);
    const View<float, 2> q_row(memory.data(), 1, static_cast<int64_t>(memory.size()));
    int chosen = 0, expected = 0, other = 0;
    std::map<std::pair<int, int>, std::set<int32_t>> predicted;
    driver.on_layer_done = [&](LayerStep& step, std::span<TestSequence* const> batch) {
      const int next = step.layer + 1;
      if (next == setup.layers) return;
      const int64_t position = batch[0]->cache.tokens();
      model.project_query(step.ctx, step.backend, next, step.input, std::span(&position, 1), q_row);
      const PageRange candidates = batch[0]->cache.layout().candidates(position + 1);
      for (int head = 0; head < setup.kv_heads; ++head) {
        // The slots are taken although the next layer has not begun.
        const auto pages = resident(*batch[0], next, head);
        predicted[{next, head}] = pages;
        const auto want = heaviest(page_mass(batch[0]->plain, next, head, q[head], candidates),
                                   candidates.first, batch[0]->cache.layout().selected());
        for (const int32_t page : want) chosen += static_cast<int>(pages.count(page));
        expected += static_cast<int>(want.size());
      }
    };
    driver.on_rows = [&](LayerStep& step, std::span<TestSequence* const> batch) {
      if (step.layer == 0) return;
      const PageRange candidates =
          batch[0]->cache.layout().candidates(batch[0]->cache.tokens() + 1);
      for (int head = 0; head < setup.kv_heads; ++head) {
        const auto pages = resident(*batch[0], step.layer, head);
        EXPECT_EQ(pages, (predicted[{step.layer, head}]));
        const auto own =
            heaviest(page_mass(batch[0]->plain, step.layer, head, step.q[head], candidates),
                     candidates.first, batch[0]->cache.layout().selected());
        other += own != pages;
      }
    };
    driver.decode(*sequence, 40);
    if (ratio == std::string("1")) {
      // All channels: exactly the pages that the predicted query wants, which are not always those
      // that the layer's own query would have wanted.
      EXPECT_EQ(chosen, expected);
      EXPECT_GT(other, 0);
    } else {
      // 5 channels of 16 find most of them; a quarter would be found by chance.
      EXPECT_GT(chosen, expected / 2);
    }
  }
}

// A prompt one token past the budget, all of whose pages are then selected: every one between sink
// and window is rebuilt. The keys of the test have no low rank, so few directions must show.
TEST(ShadowKv, AtFullRankAndWithAllChunksEqualsDense) {
  Scenario setup = decode_scenario();
  setup.dtype = DType::kF32;
  const int64_t prompt = setup.tokens.budget + 1;
  const int steps = 14;  // until another page is a candidate
  const auto dense = run_dense(setup, 29, prompt, steps);
  const auto error_of = [&](const std::string& specification) {
    const auto got = run_alone(setup, specification, 29, prompt, steps);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      for (size_t j = 0; j < got[i].size(); ++j) {
        difference += std::pow(static_cast<double>(got[i][j]) - dense[i][j], 2);
        norm += std::pow(static_cast<double>(dense[i][j]), 2);
      }
    }
    return std::sqrt(difference / norm);
  };
  EXPECT_LT(error_of("shadowkv:outliers=0"), 1e-5);
  EXPECT_LT(error_of("shadowkv"), 1e-5);
  EXPECT_GT(error_of("shadowkv:outliers=0,rank=8"), 1e-2);
  EXPECT_LT(error_of("shadowkv:outliers=0,rank=24"), error_of("shadowkv:outliers=0,rank=8"));
}

TEST(ShadowKv, FetchesNoKeysOfThePrompt) {
  const Scenario setup = decode_scenario();
  for (const bool outliers : {false, true}) {
    Driver driver(setup, outliers ? "shadowkv" : "shadowkv:outliers=0");
    const auto sequence = driver.make_sequence(31);
    driver.prefill(*sequence, 400);
    driver.decode(*sequence, 20);
    const RetrievalStats& stats = sequence->cache.stats();
    const uint64_t half = stats.misses_before * setup.cache_config().shape.head_page_bytes() / 2;
    EXPECT_GT(stats.misses_before, 50u);
    EXPECT_EQ(stats.bytes_recalled > half, outliers);
    EXPECT_GE(stats.bytes_recalled, half);
  }
}

// After a rewind they take the next prompt for the one they know: of the same one nothing changes,
// and that another one is answered wrongly shows that nothing was read.
TEST(KnownPrompts, AreNotReadAgain) {
  const Scenario setup = decode_scenario();
  for (const std::string name : {"shadowkv", "infinigen"}) {
    SCOPED_TRACE(name);
    Driver driver(setup, name);
    const auto answers_to = [&](TestSequence& sequence) {
      sequence.outputs.clear();
      driver.prefill(sequence, 400);
      driver.decode(sequence, 20);
      return sequence.outputs;
    };
    const auto sequence = driver.make_sequence(31);
    EXPECT_FALSE(sequence->state->rewind());
    const auto first = answers_to(*sequence);
    const auto again = [&](uint64_t seed) {
      auto state = std::move(sequence->state);
      EXPECT_TRUE(state->rewind());
      sequence->restart(driver.policy(), seed);
      sequence->state = std::move(state);
      return answers_to(*sequence);
    };
    EXPECT_EQ(again(31), first);
    EXPECT_NE(again(32), answers_to(*driver.make_sequence(32)));
  }
}

}  // namespace
}  // namespace freekv::invariants
