// Whatever fits the budget is attended to densely, bit for bit.
#include <gtest/gtest.h>

#include <map>
#include <tuple>

#include "driver.hpp"
#include "specifications.hpp"

namespace freekv::invariants {
namespace {

class Dense : public testing::TestWithParam<std::string> {};

struct Lengths {
  int64_t prompt;
  int steps;
};

using Outputs = std::vector<std::vector<float>>;

// The dense results are the same for all policies: computed once.
const Outputs& dense_outputs(const Scenario& setup, const Lengths& lengths) {
  static std::map<std::tuple<int, DType, int64_t, int>, Outputs> known;
  const auto key = std::make_tuple(setup.page, setup.dtype, lengths.prompt, lengths.steps);
  if (!known.count(key)) known[key] = run_dense(setup, 5, lengths.prompt, lengths.steps);
  return known[key];
}

void expect_dense(const Scenario& setup, const std::string& specification, const Lengths& lengths) {
  SCOPED_TRACE(testing::Message() << "page " << setup.page << ", prompt " << lengths.prompt
                                  << ", context limit " << setup.max_context);
  EXPECT_EQ(run_alone(setup, specification, 5, lengths.prompt, lengths.steps),
            dense_outputs(setup, lengths));
}

TEST_P(Dense, WhileTheContextIsWithinTheBudget) {
  for (const int page : {16, 32, 64}) {
    Scenario setup;
    setup.page = page;
    setup.dtype = DType::kF32;
    setup.tokens = {5 * page, page, 2 * page};
    // A limit beyond the budget: the tiers are those of retrieval. And one within it.
    for (const int64_t limit : {10 * page, 5 * page}) {
      setup.max_context = limit;
      const int steps = page + 3;
      expect_dense(setup, GetParam(), {page - 1, steps});
      expect_dense(setup, GetParam(), {5 * page - steps, steps});
    }
  }
}

TEST_P(Dense, WhereTheBudgetIsNoMultipleOfThePage) {
  Scenario setup;
  setup.tokens = {125, 10, 17};
  for (const int64_t prompt : {0, 7, 90}) expect_dense(setup, GetParam(), {prompt, 35});
}

TEST_P(Dense, PrefillOfAnyLength) {
  Scenario setup;
  // Past the budget prefill is still exact; the steps after it are the business of other tests.
  for (const int64_t prompt : {112, 113, 240}) expect_dense(setup, GetParam(), {prompt, 0});
}

TEST_P(Dense, InBfloat16) {
  Scenario setup;
  setup.dtype = DType::kBF16;
  expect_dense(setup, GetParam(), {60, 52});
}

INSTANTIATE_TEST_SUITE_P(Policies, Dense, testing::ValuesIn(main_specifications()),
                         [](const auto& info) { return test_name(info.param); });

}  // namespace
}  // namespace freekv::invariants
