// A decode step takes no memory, on any thread, whatever the policy does in it.
#include <gtest/gtest.h>

#include <thread>

#include "driver.hpp"
#include "specifications.hpp"
#include "support/counting_allocator.hpp"

namespace freekv::invariants {
namespace {

using testing_support::AllocationCount;

class Allocation : public testing::TestWithParam<std::string> {};

TEST(AllocationCount, CountsEveryThread) {
  AllocationCount count;
  std::thread([] { delete new int(1); }).join();
  EXPECT_GE(count.stop(), 1);
}

// Over all that a step can meet: within the budget, the first step past it, retrieval, pages that
// fill; in a batch whose sequences are at different stages. On the reference backend, whose
// operations take no memory either.
TEST_P(Allocation, NoneInADecodeStep) {
  const Scenario setup;
  const CacheServices services{std::make_shared<RecallEngine>(), nullptr};
  Driver driver(setup, GetParam());
  std::vector<std::unique_ptr<TestSequence>> sequences;
  std::vector<TestSequence*> batch;
  for (const int64_t prompt : {90, 112, 330}) {
    sequences.push_back(driver.make_sequence(static_cast<uint64_t>(prompt), services));
    driver.prefill(*sequences.back(), prompt);
    batch.push_back(sequences.back().get());
  }
  AllocationCount count;
  for (int i = 0; i < 60; ++i) driver.step(batch);
  EXPECT_EQ(count.stop(), 0);
}

INSTANTIATE_TEST_SUITE_P(Policies, Allocation, testing::ValuesIn(all_specifications()),
                         [](const auto& info) { return test_name(info.param); });

}  // namespace
}  // namespace freekv::invariants
