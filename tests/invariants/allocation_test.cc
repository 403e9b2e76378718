// A decode step takes no memory, on any thread, whatever the policy does in it.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>

#include "driver.hpp"
#include "specifications.hpp"

namespace {

std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};

void* allocate(size_t bytes) {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1);
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}

}  // namespace

// The forms that the others forward to by default, and the aligned one.
void* operator new(size_t bytes) { return allocate(bytes); }
void* operator new[](size_t bytes) { return allocate(bytes); }
void* operator new(size_t bytes, std::align_val_t align) {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1);
  const auto a = static_cast<size_t>(align);
  if (void* memory = std::aligned_alloc(a, (bytes + a - 1) / a * a)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace freekv::invariants {
namespace {

class Allocation : public testing::TestWithParam<std::string> {};

TEST(AllocationCount, CountsEveryThread) {
  counting = true;
  const int64_t before = allocations;
  std::thread([] { delete new int(1); }).join();
  counting = false;
  EXPECT_GE(allocations - before, 1);
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
  allocations = 0;
  counting = true;
  for (int i = 0; i < 60; ++i) driver.step(batch);
  counting = false;
  EXPECT_EQ(allocations, 0);
}

INSTANTIATE_TEST_SUITE_P(Policies, Allocation, testing::ValuesIn(all_specifications()),
                         [](const auto& info) { return test_name(info.param); });

}  // namespace
}  // namespace freekv::invariants
