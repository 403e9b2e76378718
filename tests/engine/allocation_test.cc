// A decode step allocates nothing, counted over all threads.
#include <gtest/gtest.h>

#include "freekv/engine.hpp"
#include "policies/policy.hpp"
#include "support/base_specification.hpp"
#include "support/counting_allocator.hpp"
#include "tiny_model.hpp"

namespace freekv {
namespace {

using testing_support::AllocationCount;

TEST(DecodeStep, TheCounterCounts) {
  AllocationCount count;
  const auto value = std::make_unique<int>(3);
  EXPECT_GE(count.stop(), 1);
  EXPECT_EQ(*value, 3);
}

// Decodes a batch of two sequences; returns what was allocated after their prefill.
int64_t allocations_of_decode(const EngineOptions& options) {
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
  AllocationCount count;
  for (int32_t step = 0; step < 40; ++step) {
    const int32_t tokens[] = {step % 256, step * 3 % 256};
    engine.decode(batch, tokens);
  }
  return count.stop();
}

TEST(DecodeStep, AllocatesNothingUnderAnyPolicy) {
  const TemporaryModel model;
  for (const PolicyDescriptor& policy : policy_table()) {
    EngineOptions options = tiny_options(model);
    options.policy = testing_support::base_specification(policy);
    options.threads = 3;
    EXPECT_EQ(allocations_of_decode(options), 0) << policy.name;
  }
}

// A type with a dot product in integers, and one that becomes f32 a few rows at a time.
TEST(DecodeStep, AllocatesNothingWithQuantisedWeights) {
  for (const DType dtype : {DType::kQ4_0, DType::kQ5_1}) {
    const TemporaryModel model(tiny_model_records({.weights = dtype}));
    EXPECT_EQ(allocations_of_decode(tiny_options(model)), 0) << dtype_name(dtype);
  }
}

}  // namespace
}  // namespace freekv
