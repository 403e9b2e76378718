// Outputs do not depend on the batch a sequence is in, on earlier requests, on threads, or on when
// and in which order recall finishes.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "driver.hpp"
#include "specifications.hpp"

namespace freekv::invariants {
namespace {

constexpr int64_t kPrompt = 170;
constexpr int kSteps = 45;

Scenario decode_scenario() {
  Scenario setup;
  setup.attend_in_prefill = false;
  return setup;
}

class Independence : public testing::TestWithParam<std::string> {};

TEST_P(Independence, OfTheBatch) {
  const Scenario setup = decode_scenario();
  Driver driver(setup, GetParam());
  // Below the budget and crossing it, far beyond it, without a prompt, exactly at it.
  const int64_t prompts[] = {100, 300, 0, 112};
  std::vector<std::unique_ptr<TestSequence>> sequences;
  std::vector<TestSequence*> batch;
  for (size_t i = 0; i < std::size(prompts); ++i) {
    sequences.push_back(driver.make_sequence(20 + i));
    driver.prefill(*sequences.back(), prompts[i]);
    batch.push_back(sequences.back().get());
  }
  driver.decode(batch, kSteps);
  // One leaves, the others go on.
  batch.erase(batch.begin() + 1);
  driver.decode(batch, 10);
  for (size_t i = 0; i < std::size(prompts); ++i) {
    const int steps = kSteps + (i == 1 ? 0 : 10);
    EXPECT_EQ(sequences[i]->outputs, run_alone(setup, GetParam(), 20 + i, prompts[i], steps))
        << "sequence " << i;
  }
}

TEST_P(Independence, OfEarlierRequests) {
  const Scenario setup = decode_scenario();
  Driver driver(setup, GetParam());
  const auto sequence = driver.make_sequence(1);
  for (const auto& [seed, prompt] : {std::pair{31, 250}, std::pair{32, 60}, std::pair{33, 170}}) {
    sequence->restart(driver.policy(), static_cast<uint64_t>(seed));
    driver.prefill(*sequence, prompt);
    driver.decode(*sequence, 60);
    EXPECT_EQ(sequence->outputs,
              run_alone(setup, GetParam(), static_cast<uint64_t>(seed), prompt, 60));
    EXPECT_EQ(sequence->cache.tokens(), prompt + 60);
  }
  const RetrievalStats last = sequence->cache.stats();
  Driver fresh_driver(setup, GetParam());
  const auto fresh = fresh_driver.make_sequence(33);
  fresh_driver.prefill(*fresh, 170);
  fresh_driver.decode(*fresh, 60);
  EXPECT_EQ(last.hits, fresh->cache.stats().hits);
  EXPECT_EQ(last.misses_before, fresh->cache.stats().misses_before);
  EXPECT_EQ(last.misses_after, fresh->cache.stats().misses_after);
  EXPECT_EQ(last.bytes_offloaded, fresh->cache.stats().bytes_offloaded);
}

TEST_P(Independence, OfTheThreads) {
  Scenario setup = decode_scenario();
  setup.threads = 1;
  const auto expected = run_alone(setup, GetParam(), 4, kPrompt, kSteps);
  for (const int threads : {2, 3, 5}) {
    setup.threads = threads;
    EXPECT_EQ(run_alone(setup, GetParam(), 4, kPrompt, kSteps), expected) << threads << " threads";
  }
}

// Slow, in bursts; and jobs and items in another order each time.
class Disorder final : public RecallHook {
 public:
  explicit Disorder(std::chrono::microseconds delay) : delay_(delay) {}
  size_t pick(size_t queued) override { return (picked_ = picked_ * 31 + 7) % queued; }
  void before(std::span<RecallItem> items) override {
    ++calls;
    if (calls % 3 == 0) std::this_thread::sleep_for(delay_);
    std::rotate(items.begin(), items.begin() + static_cast<ptrdiff_t>(items.size() / 2),
                items.end());
    std::reverse(items.begin(), items.begin() + static_cast<ptrdiff_t>(items.size() / 2));
  }
  std::atomic<int> calls{0};

 private:
  std::chrono::microseconds delay_;
  size_t picked_ = 1;
};

TEST_P(Independence, OfWhenRecallFinishes) {
  const Scenario setup = decode_scenario();
  const uint64_t seeds[] = {51, 52, 53};
  std::vector<std::vector<std::vector<float>>> expected;
  for (const uint64_t seed : seeds) {
    expected.push_back(run_alone(setup, GetParam(), seed, kPrompt, kSteps));
  }
  for (const int delay_us : {0, 300, 3000}) {
    Disorder hook{std::chrono::microseconds(delay_us)};
    const CacheServices services{std::make_shared<RecallEngine>(&hook), nullptr};
    Driver driver(setup, GetParam());
    std::vector<std::unique_ptr<TestSequence>> sequences;
    std::vector<TestSequence*> batch;
    for (const uint64_t seed : seeds) {
      sequences.push_back(driver.make_sequence(seed, services));
      driver.prefill(*sequences.back(), kPrompt);
      batch.push_back(sequences.back().get());
    }
    driver.decode(batch, delay_us > 1000 ? kSteps / 3 : kSteps);
    for (size_t i = 0; i < std::size(seeds); ++i) {
      const auto& got = sequences[i]->outputs;
      ASSERT_LE(got.size(), expected[i].size());
      EXPECT_TRUE(std::equal(got.begin(), got.end(), expected[i].begin()))
          << "sequence " << i << ", delay " << delay_us << " us";
    }
    EXPECT_TRUE(hook.calls > 0 || sequences[0]->cache.stats().misses_after == 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, Independence, testing::ValuesIn(all_specifications()),
                         [](const auto& info) { return test_name(info.param); });

}  // namespace
}  // namespace freekv::invariants
