// The estimate of the attention mass that coverage loses, held against the true one, and against
// what the oracle loses.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "driver.hpp"

namespace freekv::invariants {
namespace {

/// The shares of attention of all pages so far for one query, from the keys.
std::vector<double> shares(const Scenario& setup, const KvPool& keys, int head,
                           View<const float, 1> q, int64_t tokens) {
  std::vector<double> mass(static_cast<size_t>((tokens + setup.page - 1) / setup.page));
  for (int64_t t = 0; t < tokens; ++t) {
    const auto page = static_cast<int32_t>(t / setup.page);
    const std::byte* key =
        keys.keys(page, head) + static_cast<size_t>(t % setup.page) * keys.token_stride();
    double dot = 0;
    for (int e = 0; e < setup.dim; ++e) dot += q[e] * load_element(setup.dtype, key, e);
    mass[static_cast<size_t>(page)] += std::exp(dot / std::sqrt(static_cast<double>(setup.dim)));
  }
  const double all = std::accumulate(mass.begin(), mass.end(), 0.0);
  for (double& m : mass) m /= all;
  return mass;
}

struct Lost {
  double estimate = 0;  // the counters' mean
  double truth = 0;     // the mean of what the attended pages leave
};

Lost run(const std::string& specification) {
  Scenario setup;
  setup.dim = 64;
  setup.group = 3;
  setup.attend_in_prefill = false;
  Driver driver(setup, specification, make_cpu_backend());
  const auto sequence = driver.make_sequence(77);
  double sum = 0;
  int64_t rows = 0;
  driver.on_rows = [&](LayerStep& step, std::span<TestSequence* const> batch) {
    SequenceCache& cache = batch[0]->cache;
    const int64_t tokens = cache.tokens() + 1;
    const PageLayout& layout = cache.layout();
    const LayerCache& layer = cache.layer(step.layer);
    for (int head = 0; head < setup.kv_heads; ++head) {
      double found = 0;
      for (int g = 0; g < setup.group; ++g) {
        const auto mass =
            shares(setup, batch[0]->plain.pool(step.layer), head, step.q[head][g], tokens);
        const PageRange window = layout.window(tokens);
        const auto slots = step.rows[static_cast<size_t>(head)].slots;
        for (size_t i = 0; i < slots.size(); ++i) {
          const auto selected = static_cast<int32_t>(i) - layout.sink_pages();
          const auto after = static_cast<int32_t>(slots.size() - i);
          int32_t page = static_cast<int32_t>(i);
          if (after <= window.size()) {
            page = window.last - after;
          } else if (selected >= 0) {
            page = layer.plan().budgeted
                       ? layer.table().page_in(head, slots[i] - layout.first_selected_slot())
                       : slots[i];
          }
          found += mass[static_cast<size_t>(page)] / setup.group;
        }
      }
      sum += 1 - found;
      ++rows;
    }
  };
  driver.prefill(*sequence, 400);
  driver.decode(*sequence, 60);
  const RetrievalStats& stats = sequence->cache.stats();
  EXPECT_EQ(stats.lost_mass_count, static_cast<uint64_t>(rows));
  return {stats.lost_mass(), sum / static_cast<double>(rows)};
}

TEST(LostMass, IsExactForTheOracle) {
  const Lost lost = run("oracle");
  EXPECT_GT(lost.truth, 0.1);
  EXPECT_NEAR(lost.estimate, lost.truth, 1e-5);
}

TEST(LostMass, EstimatedFromTwoBitKeysIsNearTheTruth) {
  const double best = run("oracle").truth;
  double before = 0;
  for (const char* epsilon : {"0", "0.05", "0.2"}) {
    const Lost lost = run(std::string("freekv-coverage:epsilon=") + epsilon);
    EXPECT_NEAR(lost.estimate, lost.truth, 0.03) << "epsilon " << epsilon;
    EXPECT_GE(lost.truth, best) << "epsilon " << epsilon;
    // What may be missing comes on top of what no selection of this size holds.
    EXPECT_LE(lost.truth, best + std::stod(epsilon) + 0.05) << "epsilon " << epsilon;
    EXPECT_GE(lost.truth, before);
    before = lost.truth - 1e-3;
  }
}

}  // namespace
}  // namespace freekv::invariants
