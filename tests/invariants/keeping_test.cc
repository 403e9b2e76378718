// Policies that drop pages for good: what they keep equals the method written down again over the
// plain copy of the KV, and what is gone stays away.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "driver.hpp"
#include "freekv/error.hpp"
#include "support/base_specification.hpp"

namespace freekv::invariants {
namespace {

using Pages = std::vector<int32_t>;

// The attention weights of queries [G, d] over the first `tokens` tokens of some pages, mean over
// the group: weights[i] is that of the i-th token of these pages.
std::vector<double> weights_of(const PlainCopy& plain, int layer, int head, View<const float, 2> q,
                               const Pages& pages, int64_t tokens) {
  const KvPool& pool = plain.pool(layer);
  const int p = pool.shape.page;
  std::vector<double> mean;
  for (int64_t g = 0; g < q.shape(0); ++g) {
    std::vector<double> weights;
    for (const int32_t page : pages) {
      for (int64_t t = int64_t{page} * p; t < std::min<int64_t>(tokens, (page + 1) * p); ++t) {
        double dot = 0;
        for (int64_t e = 0; e < q.shape(1); ++e) {
          const std::byte* key =
              pool.keys(page, head) + static_cast<size_t>(t % p) * pool.token_stride();
          dot += static_cast<double>(q[g][e]) * load_element(pool.shape.dtype, key, e);
        }
        weights.push_back(std::exp(dot / std::sqrt(static_cast<double>(q.shape(1)))));
      }
    }
    double sum = 0;
    for (const double w : weights) sum += w;
    mean.resize(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      mean[i] += weights[i] / sum / static_cast<double>(q.shape(0));
    }
  }
  return mean;
}

// The same, added up by page.
std::map<int32_t, double> page_weights(const PlainCopy& plain, int layer, int head,
                                       View<const float, 2> q, const Pages& pages, int64_t tokens) {
  const auto weights = weights_of(plain, layer, head, q, pages, tokens);
  std::map<int32_t, double> by_page;
  const auto p = static_cast<size_t>(plain.pool(layer).shape.page);
  for (size_t i = 0; i < weights.size(); ++i) by_page[pages[i / p]] += weights[i];
  return by_page;
}

Pages range(int32_t first, int32_t last) {
  Pages pages;
  for (int32_t page = first; page < last; ++page) pages.push_back(page);
  return pages;
}

// The k candidates of largest value, ascending; of equals the lower.
Pages best(PageRange candidates, int32_t k, const std::map<int32_t, double>& value) {
  Pages pages = range(candidates.first, candidates.last);
  const auto of = [&](int32_t page) { return value.count(page) ? value.at(page) : 0.0; };
  std::stable_sort(pages.begin(), pages.end(), [&](int32_t a, int32_t b) { return of(a) > of(b); });
  pages.resize(static_cast<size_t>(k));
  std::sort(pages.begin(), pages.end());
  return pages;
}

Pages resident(TestSequence& sequence, int layer, int head) {
  const PageTable& table = sequence.cache.layer(layer).table();
  Pages pages;
  for (int32_t slot = 0; slot < table.slots(); ++slot) {
    if (table.page_in(head, slot) >= 0) pages.push_back(table.page_in(head, slot));
  }
  std::sort(pages.begin(), pages.end());
  return pages;
}

// What a naive method knows of one head.
struct Head {
  Pages kept;
  int32_t undecided = 0;
  std::map<int32_t, double> value;
};

struct Method {
  std::string specification;
  int64_t observed = 0;  // prompt tokens, from the end, whose queries are seen
  // What the weights of a query over pages do to the values: of the prompt, which decide what is
  // kept of it, and of token t in decode.
  std::function<void(Head&, const std::map<int32_t, double>&)> prompt_value;
  std::function<void(Head&)> after_prompt;
  std::function<void(Head&, const std::map<int32_t, double>&, int64_t t)> see;
  std::function<int32_t(const Head&, int32_t newcomer)> victim;
};

// Runs method and policy side by side: the pages kept are the same in every step. Returns how often
// one was dropped for another.
int expect_kept(const Method& method, int64_t prompt, int steps) {
  SCOPED_TRACE(testing::Message() << method.specification << ", prompt " << prompt);
  Scenario setup;
  setup.attend_in_prefill = false;
  Driver driver(setup, method.specification);
  const auto sequence = driver.make_sequence(17);
  driver.prefill(*sequence, prompt);
  const PageLayout& layout = sequence->cache.layout();
  std::vector<std::vector<Head>> heads(static_cast<size_t>(setup.layers));
  for (int layer = 0; layer < setup.layers; ++layer) {
    std::vector<float> memory(static_cast<size_t>(setup.kv_heads * setup.group * setup.dim));
    const View<float, 3> q(memory.data(), setup.kv_heads, setup.group, setup.dim);
    for (int h = 0; h < setup.kv_heads; ++h) {
      Head head;
      for (int64_t t = std::max<int64_t>(0, prompt - method.observed); t < prompt; ++t) {
        sequence->inputs.query(layer, t, q);
        method.prompt_value(head, page_weights(sequence->plain, layer, h, q[h],
                                               range(0, layout.pages(t + 1)), t + 1));
      }
      const PageRange candidates = layout.candidates(prompt);
      const int32_t direct = layout.sink_pages() + layout.selected();
      const bool over = prompt > setup.tokens.budget;
      head.kept = over ? best(candidates, layout.selected(), head.value)
                       : range(layout.sink_pages(), direct);
      head.undecided = over ? candidates.last : direct;
      method.after_prompt(head);
      heads[static_cast<size_t>(layer)].push_back(head);
    }
  }
  int changes = 0;
  driver.on_rows = [&](LayerStep& step, std::span<TestSequence* const> batch) {
    const int64_t t = batch[0]->cache.tokens() + 1;
    for (int h = 0; h < setup.kv_heads; ++h) {
      Head& head = heads[static_cast<size_t>(step.layer)][static_cast<size_t>(h)];
      Pages attended = range(0, layout.pages(t));
      if (t > setup.tokens.budget) {
        for (; head.undecided < layout.candidates(t).last; ++head.undecided) {
          const int32_t gone = method.victim(head, head.undecided);
          if (gone == head.undecided) continue;
          ++changes;
          head.kept.erase(std::find(head.kept.begin(), head.kept.end(), gone));
          head.kept.push_back(head.undecided);
        }
        EXPECT_EQ(resident(*batch[0], step.layer, h), head.kept)
            << "layer " << step.layer << ", head " << h << ", " << t << " tokens";
        attended = range(0, layout.sink_pages());
        attended.insert(attended.end(), head.kept.begin(), head.kept.end());
        const Pages window = range(layout.window(t).first, layout.window(t).last);
        attended.insert(attended.end(), window.begin(), window.end());
      }
      method.see(head, page_weights(batch[0]->plain, step.layer, h, step.q[h], attended, t), t - 1);
    }
  };
  driver.decode(*sequence, steps);
  return changes;
}

// While all of a prompt counts the first pages have collected most and are hard to displace, as
// known of this method; where little of it counts, pages come and go.
TEST(H2o, DropsThePageOfLeastAccumulatedAttention) {
  Method method;
  method.see = [](Head& head, const std::map<int32_t, double>& weights, int64_t) {
    for (const auto& [page, weight] : weights) head.value[page] += weight;
  };
  method.prompt_value = [&](Head& head, const std::map<int32_t, double>& weights) {
    method.see(head, weights, 0);
  };
  method.after_prompt = [](Head&) {};
  method.victim = [](const Head& head, int32_t newcomer) {
    int32_t least = newcomer;
    for (const int32_t page : head.kept) {
      if (head.value.at(page) < head.value.at(least)) least = page;
    }
    return least;
  };
  method.specification = "h2o";
  method.observed = 1 << 30;
  expect_kept(method, 0, 130);
  expect_kept(method, 112, 40);
  expect_kept(method, 303, 40);
  method.specification = "h2o:observe=1,recent=0";
  method.observed = 1;
  EXPECT_GT(expect_kept(method, 303, 130), 0);
}

TEST(H2o, HalfTheBudgetIsRecent) {
  CacheConfig config = Scenario().cache_config();
  config.tokens = {2048, 16, 32};
  const auto policy = make_policy("h2o");
  EXPECT_EQ(PageLayout(config, policy->plan(config)).window_pages(), 2048 / 2 / config.shape.page);
}

// With the paper's threshold, under which every page of so short a text is in use, and with one
// that few pages reach.
TEST(Raas, DropsThePageWhoseLastUseIsOldest) {
  int changes = 0;
  for (const double alpha : {0.0001, 0.2}) {
    for (const bool pin : {true, false}) {
      for (const int64_t prompt : {50, 112, 303}) {
        const int64_t pinned = pin && prompt <= 80 ? prompt : 0;
        Method method;
        method.specification =
            "raas:alpha=" + std::to_string(alpha) + ",pin_prompt=" + (pin ? "1" : "0");
        method.observed = 1;
        // Of the prompt what its last query attends to most is kept.
        method.prompt_value = [](Head& head, const std::map<int32_t, double>& weights) {
          head.value = weights;
        };
        method.after_prompt = [&](Head& head) {
          for (auto& [page, value] : head.value) {
            value = value > alpha ? static_cast<double>(prompt - 1) : -1;
          }
        };
        method.see = [&](Head& head, const std::map<int32_t, double>& weights, int64_t t) {
          for (const auto& [page, weight] : weights) {
            head.value.emplace(page, -1);
            if (weight > alpha) head.value[page] = static_cast<double>(t);
          }
        };
        method.victim = [&](const Head& head, int32_t newcomer) {
          Pages pages = head.kept;
          pages.push_back(newcomer);
          int32_t oldest = -1;
          for (const int32_t page : pages) {
            if (page * 16 < pinned) continue;
            if (oldest < 0 || head.value.at(page) < head.value.at(oldest)) oldest = page;
          }
          return oldest;
        };
        changes += expect_kept(method, prompt, 100);
      }
    }
  }
  EXPECT_GT(changes, 50);
}

// Votes of the last 32 queries, each token taking the largest of the seven around it, by page.
TEST(SnapKv, KeepsWhatThePromptsLastQueriesAttendTo) {
  Scenario setup;
  setup.attend_in_prefill = false;
  for (const int64_t prompt : {113, 250, 471}) {
    Driver driver(setup, "snapkv");
    const auto sequence = driver.make_sequence(18);
    driver.prefill(*sequence, prompt);
    const PageLayout& layout = sequence->cache.layout();
    std::vector<std::vector<Pages>> kept(static_cast<size_t>(setup.layers));
    std::vector<float> memory(static_cast<size_t>(setup.kv_heads * setup.group * setup.dim));
    const View<float, 3> q(memory.data(), setup.kv_heads, setup.group, setup.dim);
    for (int layer = 0; layer < setup.layers; ++layer) {
      for (int h = 0; h < setup.kv_heads; ++h) {
        std::vector<double> votes(static_cast<size_t>(prompt));
        for (int64_t t = prompt - 32; t < prompt; ++t) {
          sequence->inputs.query(layer, t, q);
          const auto weights =
              weights_of(sequence->plain, layer, h, q[h], range(0, layout.pages(t + 1)), t + 1);
          for (size_t i = 0; i < weights.size(); ++i) votes[i] += weights[i];
        }
        std::map<int32_t, double> value;
        for (int64_t t = 0; t < prompt; ++t) {
          double most = 0;
          for (int64_t u = t - 3; u <= t + 3; ++u) {
            if (u >= 0 && u < prompt) most = std::max(most, votes[static_cast<size_t>(u)]);
          }
          value[static_cast<int32_t>(t / setup.page)] += most;
        }
        kept[static_cast<size_t>(layer)].push_back(
            best(layout.candidates(prompt), layout.selected(), value));
        EXPECT_EQ(resident(*sequence, layer, h), kept[static_cast<size_t>(layer)].back())
            << "prompt " << prompt << ", layer " << layer << ", head " << h;
      }
    }
    driver.decode(*sequence, 100);
    for (int layer = 0; layer < setup.layers; ++layer) {
      for (int h = 0; h < setup.kv_heads; ++h) {
        EXPECT_EQ(resident(*sequence, layer, h),
                  kept[static_cast<size_t>(layer)][static_cast<size_t>(h)]);
      }
    }
  }
}

// Any policy that selects within a budget and has no slow tier. A page that left the window and is
// not kept never comes back.
TEST(PoliciesWithoutASlowTier, NeverReturnADroppedPage) {
  int policies = 0;
  for (const PolicyDescriptor& descriptor : policy_table()) {
    Scenario setup;
    setup.attend_in_prefill = false;
    Driver driver(setup, testing_support::base_specification(descriptor));
    const CacheNeeds needs = driver.policy().plan(setup.cache_config());
    if (needs.fast != CacheNeeds::Fast::kBudget || needs.slow || !needs.selects) continue;
    ++policies;
    for (const int64_t prompt : {0, 250}) {
      const auto sequence = driver.make_sequence(19);
      driver.prefill(*sequence, prompt);
      std::map<std::pair<int, int>, std::set<int32_t>> dropped;
      driver.on_rows = [&](LayerStep& step, std::span<TestSequence* const> batch) {
        const int64_t t = batch[0]->cache.tokens() + 1;
        if (t <= setup.tokens.budget) return;
        const PageRange candidates = batch[0]->cache.layout().candidates(t);
        for (int head = 0; head < setup.kv_heads; ++head) {
          const Pages kept = resident(*batch[0], step.layer, head);
          auto& gone = dropped[{step.layer, head}];
          for (const int32_t page : kept) EXPECT_EQ(gone.count(page), 0u) << descriptor.name;
          for (const int32_t page : range(candidates.first, candidates.last)) {
            if (!std::count(kept.begin(), kept.end(), page)) gone.insert(page);
          }
        }
      };
      driver.decode(*sequence, 180);
      for (const auto& [row, gone] : dropped) EXPECT_GE(gone.size(), 4u) << descriptor.name;
      // Nor is any of the prompt left for another to take over.
      EXPECT_THROW(driver.make_sequence(19)->cache.append_from(driver.ctx(), sequence->cache, 1),
                   Error);
    }
  }
  EXPECT_GE(policies, 3);
}

}  // namespace
}  // namespace freekv::invariants
