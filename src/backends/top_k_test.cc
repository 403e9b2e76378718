// top_k as a property: it takes what sorting takes, for any values.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "backends/cpu/selection.hpp"
#include "backends/op_cases.hpp"
#include "backends/op_test.hpp"
#include "backends/reference/selection.hpp"
#include "freekv/error.hpp"

namespace freekv {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using TopK = void (*)(View<const float, 1>, std::span<int32_t>);

std::vector<int32_t> run(TopK op, const std::vector<float>& values, size_t k) {
  std::vector<int32_t> out(k, -1);
  op(View<const float, 1>(values.data(), values.size()), out);
  return out;
}

std::vector<int32_t> sorted(const std::vector<float>& values, size_t k) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t i, int32_t j) {
    const float a = values[static_cast<size_t>(i)];
    const float b = values[static_cast<size_t>(j)];
    return !std::isnan(a) && (std::isnan(b) || a > b);
  });
  order.resize(k);
  std::sort(order.begin(), order.end());
  return order;
}

// Few different values, so that ties are common, and all the odd ones.
rc::Gen<float> any_value() {
  return rc::gen::weightedOneOf<float>(
      {{6, rc::gen::map(rc::gen::inRange(-4, 5), [](int i) { return static_cast<float>(i); })},
       {3, rc::gen::map(rc::gen::arbitrary<uint32_t>(),
                        [](uint32_t bits) { return std::bit_cast<float>(bits); })},
       {1, rc::gen::element(kNan, kInfinity, -kInfinity, -0.0f, 0.0f, 1e-40f, -1e-40f)}});
}

void takes_what_sorting_takes(TopK op) {
  const auto values = *rc::gen::container<std::vector<float>>(any_value());
  const auto k = *rc::gen::inRange<size_t>(0, values.size() + 1);
  RC_ASSERT(run(op, values, k) == sorted(values, k));
}

RC_GTEST_PROP(TopK, ReferenceTakesWhatSortingTakes, ()) {
  takes_what_sorting_takes(reference::top_k);
}

RC_GTEST_PROP(TopK, TakesWhatSortingTakes, ()) {
  const auto values = *rc::gen::container<std::vector<float>>(any_value());
  const auto k = *rc::gen::inRange<size_t>(0, values.size() + 1);
  const std::vector<int32_t> expected = sorted(values, k);
  for_each_simd_target([&] { RC_ASSERT(run(cpu::top_k, values, k) == expected); });
}

TEST(TopK, ManyPages) {
  for (const int64_t n : {1, 63, 64, 65, 2048, 2049}) {
    const std::vector<float> values = cases::random_floats(n, static_cast<uint32_t>(n));
    for (const size_t k : {size_t{0}, size_t{1}, size_t{14}, size_t{56}, static_cast<size_t>(n)}) {
      if (k > values.size()) continue;
      SCOPED_TRACE(fmt::format("{} of {}", k, n));
      const std::vector<int32_t> expected = sorted(values, k);
      EXPECT_EQ(run(reference::top_k, values, k), expected);
      for_each_simd_target([&] { EXPECT_EQ(run(cpu::top_k, values, k), expected); });
    }
  }
}

TEST(TopK, EqualValuesGoToTheLowerIndex) {
  const std::vector<float> values = {1, 2, 2, 0, 2, 2, -0.0f, 0};
  const std::vector<int32_t> three = {1, 2, 4};
  const std::vector<int32_t> six = {0, 1, 2, 3, 4, 5};
  for (const TopK op : {reference::top_k, cpu::top_k}) {
    EXPECT_EQ(run(op, values, 3), three);
    EXPECT_EQ(run(op, values, 6), six);
  }
}

TEST(TopK, NanIsSmallest) {
  const std::vector<float> values = {kNan, -kInfinity, kNan, 3};
  const std::vector<int32_t> two = {1, 3};
  const std::vector<int32_t> three = {0, 1, 3};
  for (const TopK op : {reference::top_k, cpu::top_k}) {
    EXPECT_EQ(run(op, values, 2), two);
    EXPECT_EQ(run(op, values, 3), three);
  }
}

TEST(TopK, RefusesMoreThanThereAre) {
  const std::vector<float> values = {1, 2};
  for (const TopK op : {reference::top_k, cpu::top_k}) EXPECT_THROW(run(op, values, 3), Error);
}

}  // namespace
}  // namespace freekv
