// Mean values of pages: SIMD against the scalar reference, and the reference against the values.
#include <gtest/gtest.h>

#include "backends/cpu/selection.hpp"
#include "backends/kv_cases.hpp"
#include "backends/op_test.hpp"
#include "backends/reference/selection.hpp"
#include "freekv/error.hpp"

namespace freekv {
namespace {

/// Means of `pages` pages, NaN until they are built.
struct Means {
  Means(DType dtype, int head_dim, int64_t pages) : view{nullptr, dtype, head_dim} {
    bytes.resize(static_cast<size_t>(pages) * view.page_bytes(), std::byte{0xff});
    view.data = bytes.data();
  }
  float at(int64_t page, int e) const { return load_element(view.dtype, view.mean(page), e); }
  MeanValuesView view;
  std::vector<std::byte> bytes;
};

// Of a value near 1; the two backends may round it to its neighbours.
double rounding(DType dtype) {
  return dtype == DType::kF32 ? 0x1p-20 : dtype == DType::kF16 ? 0x1p-8 : 0x1p-5;
}

TEST(MeanValues, AreTheMeansOfAPagesValues) {
  for (const KvShape& shape : cases::kv_shapes()) {
    for (const KvLayout layout : cases::kLayouts) {
      SCOPED_TRACE(cases::shape_name(shape, layout));
      const cases::PagedKv kv(shape, layout, int64_t{2} * shape.page, 5);
      const int head = shape.heads - 1;
      const int32_t slot = kv.slots()[1];
      Means expected(shape.dtype, shape.head_dim, 2);
      reference::build_mean_values(kv.pool(), slot, head, expected.view, 1);
      for (int e = 0; e < shape.head_dim; ++e) {
        double sum = 0;
        for (int t = 0; t < shape.page; ++t) {
          sum += load_element(
              shape.dtype,
              kv.pool().values(slot, head) + static_cast<size_t>(t) * kv.pool().token_stride(), e);
        }
        ASSERT_NEAR(expected.at(1, e), sum / shape.page, rounding(shape.dtype));
        ASSERT_TRUE(std::isnan(expected.at(0, e))) << "a page that was not built";
      }
      for_each_simd_target([&] {
        Means actual(shape.dtype, shape.head_dim, 2);
        cpu::build_mean_values(kv.pool(), slot, head, actual.view, 1);
        for (int e = 0; e < shape.head_dim; ++e) {
          ASSERT_NEAR(actual.at(1, e), expected.at(1, e), rounding(shape.dtype));
        }
      });
    }
  }
}

// Every group size, ranges around tiles of 32 pages; means of pages without weight are NaN.
TEST(MeanValues, AreAddedAsTheReferenceAddsThem) {
  for (const DType dtype : cases::kKvTypes) {
    for (const int dim : {8, 64, 80, 96, 128, 256}) {
      const cases::PagedKv kv({1, dim, 4, dtype}, KvLayout::kNHD, 70 * 4, 7);
      for (const auto& [first, n] : {std::array{0, 0}, std::array{3, 1}, std::array{0, 32},
                                     std::array{1, 33}, std::array{5, 65}}) {
        for (int group = 1; group <= 16; ++group) {
          SCOPED_TRACE(fmt::format("{} d={} G={} {}+{}", dtype_name(dtype), dim, group, first, n));
          std::vector<float> weights = cases::random_floats(int64_t{1} * group * n, 11);
          Means means(dtype, dim, 70);
          for (int i = 0; i < n; ++i) {
            if (i % 3 == 1) {
              for (int g = 0; g < group; ++g) weights[static_cast<size_t>(g * n + i)] = 0;
            } else {
              reference::build_mean_values(kv.pool(), kv.slots()[static_cast<size_t>(first + i)], 0,
                                           means.view, first + i);
            }
          }
          const auto run = [&](auto add) {
            std::vector<float> out = cases::random_floats(int64_t{1} * group * dim, 13);
            add(View<const float, 2>(weights.data(), group, n), means.view, int64_t{first},
                View<float, 2>(out.data(), group, dim));
            return out;
          };
          const std::vector<float> expected = run(reference::add_mean_values);
          for_each_simd_target(
              [&] { EXPECT_LE(cases::relative_error(run(cpu::add_mean_values), expected), 2e-6); });
        }
      }
    }
  }
}

TEST(MeanValues, RefuseWhatDoesNotFit) {
  const cases::PagedKv kv({2, 16, 4, DType::kF16}, KvLayout::kNHD, 8, 3);
  Means means(DType::kF16, 16, 2), narrow(DType::kF16, 8, 2);
  std::vector<float> floats(64);
  const View<const float, 2> weights(floats.data(), 2, 2);
  const View<float, 2> out(floats.data() + 8, 2, 16), other(floats.data() + 8, 1, 16);
  for (const auto build : {reference::build_mean_values, cpu::build_mean_values}) {
    EXPECT_THROW(build(kv.pool(), kv.slots()[0], 2, means.view, 0), Error);
    EXPECT_THROW(build(kv.pool(), kv.slots()[0], 0, narrow.view, 0), Error);
    EXPECT_THROW(build(kv.pool(), kv.slots()[0], 0, means.view, -1), Error);
  }
  for (const auto add : {reference::add_mean_values, cpu::add_mean_values}) {
    EXPECT_THROW(add(weights, narrow.view, 0, out), Error);
    EXPECT_THROW(add(weights, means.view, 0, other), Error);
    EXPECT_THROW(add(weights, means.view, -1, out), Error);
  }
}

// What mean values are weighted with is what a softmax leaves in the scores.
TEST(PoolScores, LeavesTheTermsOfASoftmax) {
  constexpr int64_t kHeads = 3, kPages = 37;
  for (const Pooling pooling : {Pooling::kMeanSoftmax, Pooling::kMaxSoftmax}) {
    for (const auto pool : {reference::pool_scores, cpu::pool_scores}) {
      const std::vector<float> scores = cases::random_floats(kHeads * kPages, 3);
      std::vector<float> left = scores, pooled(kPages);
      pool(pooling, 0.7f, View<float, 2>(left.data(), kHeads, kPages),
           View<float, 1>(pooled.data(), kPages));
      for (size_t g = 0; g < kHeads; ++g) {
        const float *before = scores.data() + g * kPages, *after = left.data() + g * kPages;
        const float highest = *std::max_element(before, before + kPages);
        for (int64_t i = 0; i < kPages; ++i) {
          ASSERT_NEAR(after[i], std::exp(0.7 * (before[i] - highest)), 1e-6);
        }
      }
    }
  }
}

}  // namespace
}  // namespace freekv
