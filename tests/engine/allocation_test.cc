// A decode step allocates nothing: counted over all threads by replacing operator new.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "freekv/engine.hpp"
#include "policies/policy.hpp"
#include "tiny_model.hpp"

namespace {

std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};

void* allocate(size_t bytes) {
  if (counting.load(std::memory_order_relaxed)) ++allocations;
  if (void* memory = std::malloc(bytes ? bytes : 1)) return memory;
  throw std::bad_alloc();
}

void* allocate_aligned(size_t bytes, std::align_val_t alignment) {
  if (counting.load(std::memory_order_relaxed)) ++allocations;
  const auto align = static_cast<size_t>(alignment);
  if (void* memory = std::aligned_alloc(align, (bytes + align - 1) / align * align)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(size_t bytes) { return allocate(bytes); }
void* operator new[](size_t bytes) { return allocate(bytes); }
void* operator new(size_t bytes, std::align_val_t align) { return allocate_aligned(bytes, align); }
void* operator new[](size_t bytes, std::align_val_t align) {
  return allocate_aligned(bytes, align);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace freekv {
namespace {

TEST(DecodeStep, TheCounterCounts) {
  allocations = 0;
  counting = true;
  const auto value = std::make_unique<int>(3);
  counting = false;
  EXPECT_EQ(*value, 3);
  EXPECT_GE(allocations.load(), 1);
}

TEST(DecodeStep, AllocatesNothingUnderAnyPolicy) {
  const TemporaryModel model;
  for (const PolicyDescriptor& policy : policy_table()) {
    EngineOptions options = tiny_options(model);
    options.policy = policy.name;
    options.threads = 3;
    Engine engine(options);
    std::vector<std::unique_ptr<Sequence>> sequences;
    std::vector<Sequence*> batch;
    for (const size_t length : {size_t{300}, size_t{90}}) {
      std::vector<int32_t> prompt(length);
      for (size_t i = 0; i < length; ++i) prompt[i] = static_cast<int32_t>(i * 7 % 256);
      sequences.push_back(engine.new_sequence());
      engine.prefill(*sequences.back(), prompt);
      batch.push_back(sequences.back().get());
    }
    // From the very first step: the 300 tokens retrieve at once, the 90 cross the budget of 96.
    allocations = 0;
    counting = true;
    for (int32_t step = 0; step < 40; ++step) {
      const int32_t tokens[] = {step % 256, step * 3 % 256};
      engine.decode(batch, tokens);
    }
    counting = false;
    EXPECT_EQ(allocations.load(), 0) << policy.name;
  }
}

}  // namespace
}  // namespace freekv
