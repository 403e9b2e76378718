// Sketches, page scores, pooling and the correction test: SIMD against the scalar reference.
#include "backends/cpu/selection.hpp"

#include <gtest/gtest.h>

#include "backends/kv_cases.hpp"
#include "backends/op_test.hpp"
#include "backends/reference/selection.hpp"
#include "freekv/error.hpp"

namespace freekv {
namespace {

constexpr Pooling kPoolings[] = {Pooling::kMeanSoftmax, Pooling::kMaxSoftmax, Pooling::kMeanScore,
                                 Pooling::kMaxScore};

// A sketch of `pages` pages; every value that is not built is NaN.
struct Sketch {
  Sketch(BoxKind kind, DType dtype, int head_dim, int64_t pages)
      : view{nullptr, dtype, head_dim, kind} {
    bytes.resize(static_cast<size_t>((pages + 15) / 16) * view.block_bytes(), std::byte{0xff});
    view.data = bytes.data();
  }
  float hi(int64_t page, int e) const {
    return load_element(view.dtype, view.hi(page / 16, e), page % 16);
  }
  float lo(int64_t page, int e) const {
    return load_element(view.dtype, view.lo(page / 16, e), page % 16);
  }
  BoxSketchView view;
  std::vector<std::byte> bytes;
};

// Sketches all pages of a sequence's head with the reference.
Sketch reference_sketch(BoxKind kind, const cases::PagedKv& kv, int head) {
  const auto pages = static_cast<int64_t>(kv.slots().size());
  Sketch sketch(kind, kv.pool().shape.dtype, kv.pool().shape.head_dim, pages);
  for (int64_t j = 0; j < pages; ++j) {
    reference::build_box_sketch(kv.pool(), kv.slots()[static_cast<size_t>(j)], head, sketch.view,
                                j);
  }
  return sketch;
}

// Spacing of the dtype's values relative to their size.
double spacing(DType dtype) {
  return dtype == DType::kF32 ? 0x1p-22 : dtype == DType::kF16 ? 0x1p-10 : 0x1p-7;
}

TEST(BoxSketch, MinMaxHasTheReferencesBytes) {
  for (const KvShape& shape : cases::kv_shapes()) {
    for (const KvLayout layout : cases::kLayouts) {
      SCOPED_TRACE(cases::shape_name(shape, layout));
      const cases::PagedKv kv(shape, layout, int64_t{18} * shape.page, 5);
      const int head = shape.heads - 1;
      const Sketch expected = reference_sketch(BoxKind::kMinMax, kv, head);
      for_each_simd_target([&] {
        Sketch actual(BoxKind::kMinMax, shape.dtype, shape.head_dim, 18);
        for (int64_t j = 0; j < 18; ++j) {
          cpu::build_box_sketch(kv.pool(), kv.slots()[static_cast<size_t>(j)], head, actual.view,
                                j);
        }
        EXPECT_TRUE(actual.bytes == expected.bytes);
      });
    }
  }
}

void expect_reference_bounds(BoxKind kind) {
  for (const KvShape& shape : cases::kv_shapes()) {
    SCOPED_TRACE(cases::shape_name(shape, KvLayout::kNHD));
    const cases::PagedKv kv(shape, KvLayout::kNHD, int64_t{2} * shape.page, 5);
    const Sketch expected = reference_sketch(kind, kv, 0);
    for_each_simd_target([&] {
      Sketch actual(kind, shape.dtype, shape.head_dim, 2);
      for (int64_t j = 0; j < 2; ++j) {
        cpu::build_box_sketch(kv.pool(), kv.slots()[static_cast<size_t>(j)], 0, actual.view, j);
        for (int e = 0; e < shape.head_dim; ++e) {
          // One step of the dtype: the two may round a value to its neighbours.
          const double step = spacing(shape.dtype) * 4;
          ASSERT_NEAR(actual.hi(j, e), expected.hi(j, e), step);
          ASSERT_NEAR(actual.lo(j, e), expected.lo(j, e), step);
          ASSERT_LE(actual.lo(j, e), actual.hi(j, e));
        }
      }
    });
  }
}

TEST(BoxSketch, CuboidAgreesWithReference) { expect_reference_bounds(BoxKind::kCuboid); }
TEST(BoxSketch, MeanAgreesWithReference) { expect_reference_bounds(BoxKind::kMean); }

// `tolerance` is of the root mean square, which is small where terms of both signs are added.
void expect_reference_scores(BoxKind kind, double tolerance) {
  struct Range {
    int64_t first, n;
  };
  // Around blocks of 16 pages; pages outside the range, in the same block or not, are NaN.
  constexpr Range kRanges[] = {{0, 0},  {0, 1},  {0, 16},  {0, 40},
                               {1, 15}, {15, 2}, {16, 17}, {3, 5}};
  for (const DType dtype : cases::kKvTypes) {
    for (const int dim : {8, 64, 80, 96, 128, 256}) {
      const cases::PagedKv kv({1, dim, 4, dtype}, KvLayout::kNHD, 40 * 4, 7);
      for (const auto& [first, n] : kRanges) {
        Sketch sketch(kind, dtype, dim, 40);
        for (int64_t j = first; j < first + n; ++j) {
          reference::build_box_sketch(kv.pool(), kv.slots()[static_cast<size_t>(j)], 0, sketch.view,
                                      j);
        }
        for (int group = 1; group <= 16; ++group) {
          SCOPED_TRACE(fmt::format("{} d={} G={} {}+{}", dtype_name(dtype), dim, group, first, n));
          const std::vector<float> q = cases::random_floats(int64_t{1} * group * dim, 11);
          const View<const float, 2> queries(q.data(), group, dim);
          std::vector<float> expected = cases::poisoned(group * n);
          reference::score_box_pages(queries, sketch.view, first,
                                     View<float, 2>(expected.data(), group, n));
          for_each_simd_target([&] {
            std::vector<float> actual = cases::poisoned(group * n);
            cpu::score_box_pages(queries, sketch.view, first,
                                 View<float, 2>(actual.data(), group, n));
            EXPECT_LE(cases::relative_error(actual, expected), tolerance);
          });
        }
      }
    }
  }
}

TEST(BoxSketch, ScoresAgreeWithReference) { expect_reference_scores(BoxKind::kMinMax, 2e-6); }
TEST(BoxSketch, ScoresOfTheMeanAgreeWithReference) {
  expect_reference_scores(BoxKind::kMean, 1e-5);
}

TEST(BoxSketch, MinMaxScoreBoundsEveryKeysScore) {
  for (const DType dtype : cases::kKvTypes) {
    const KvShape shape{1, 64, 32, dtype};
    const cases::PagedKv kv(shape, KvLayout::kHND, int64_t{20} * shape.page, 13);
    const Sketch sketch = reference_sketch(BoxKind::kMinMax, kv, 0);
    const std::vector<float> q = cases::random_floats(4 * 64, 17);
    const View<const float, 2> queries(q.data(), 4, 64);
    for_each_simd_target([&] {
      std::vector<float> scores = cases::poisoned(4 * 20);
      cpu::score_box_pages(queries, sketch.view, 0, View<float, 2>(scores.data(), 4, 20));
      for (int64_t g = 0; g < 4; ++g) {
        for (int64_t j = 0; j < 20; ++j) {
          for (int t = 0; t < shape.page; ++t) {
            const std::byte* key = kv.pool().keys(kv.slots()[static_cast<size_t>(j)], 0) +
                                   static_cast<size_t>(t) * kv.pool().token_stride();
            double dot = 0;
            for (int e = 0; e < 64; ++e) dot += queries[g][e] * load_element(dtype, key, e);
            ASSERT_LE(dot, scores[static_cast<size_t>(g * 20 + j)] + 1e-4);
          }
        }
      }
    });
  }
}

TEST(PoolScores, AgreesWithReference) {
  for (const Pooling pooling : kPoolings) {
    for (const int64_t group : {1, 3, 4, 7, 16}) {
      for (const int64_t n : {0, 1, 3, 4, 15, 16, 17, 33, 500}) {
        SCOPED_TRACE(fmt::format("pooling {} G={} n={}", static_cast<int>(pooling), group, n));
        const std::vector<float> scores = cases::random_floats(group * n, 19, 30.0f);
        const auto run = [&](auto op) {
          std::vector<float> copy = scores;
          std::vector<float> pooled = cases::poisoned(n);
          op(pooling, 0.125f, View<float, 2>(copy.data(), group, n),
             View<float, 1>(pooled.data(), n));
          return pooled;
        };
        const std::vector<float> expected = run(reference::pool_scores);
        for_each_simd_target([&] {
          const std::vector<float> actual = run(cpu::pool_scores);
          // Of the mean square: a sharp softmax has a few large values and many small ones.
          EXPECT_LE(cases::relative_error(actual, expected), 3e-5);
          if (pooling == Pooling::kMeanSoftmax && n > 0) {
            EXPECT_NEAR(std::accumulate(actual.begin(), actual.end(), 0.0), 1.0, 1e-5);
          }
        });
      }
    }
  }
}

TEST(PoolScores, SoftmaxSurvivesHugeScores) {
  std::vector<float> scores = {1e30f, -1e30f, 1e30f, 0.0f};
  std::vector<float> pooled = cases::poisoned(4);
  cpu::pool_scores(Pooling::kMeanSoftmax, 1.0f, View<float, 2>(scores.data(), 1, 4),
                   View<float, 1>(pooled.data(), 4));
  EXPECT_EQ(pooled, (std::vector<float>{0.5f, 0.0f, 0.5f, 0.0f}));
}

TEST(MeanCosine, AgreesWithReference) {
  for (const int64_t group : {1, 4, 5, 16}) {
    for (const int64_t dim : {1, 7, 8, 64, 80, 256}) {
      SCOPED_TRACE(fmt::format("G={} d={}", group, dim));
      const int64_t rows = 3;
      const std::vector<float> q = cases::random_floats(rows * group * dim, 23);
      std::vector<float> before = cases::random_floats(rows * group * dim, 29);
      for (size_t i = 0; i < before.size(); ++i) before[i] = 0.3f * before[i] + q[i];
      const auto run = [&](auto op) {
        ExecutionContext ctx(2);
        std::vector<float> out = cases::poisoned(rows);
        op(ctx, View<const float, 3>(q.data(), rows, group, dim),
           View<const float, 3>(before.data(), rows, group, dim), View<float, 1>(out.data(), rows));
        return out;
      };
      const std::vector<float> expected = run(reference::mean_cosine);
      for_each_simd_target(
          [&] { EXPECT_LE(cases::relative_error(run(cpu::mean_cosine), expected), 1e-6); });
    }
  }
}

TEST(MeanCosine, KnownValues) {
  const std::vector<float> q = cases::random_floats(64, 31, 1e-3f);
  std::vector<float> opposite = q;
  for (float& x : opposite) x *= -3;
  const std::vector<float> zero(64, 0.0f);
  ExecutionContext ctx(1);
  const auto cosine = [&](auto op, const std::vector<float>& previous) {
    float out = std::numeric_limits<float>::quiet_NaN();
    op(ctx, View<const float, 3>(q.data(), 1, 1, 64),
       View<const float, 3>(previous.data(), 1, 1, 64), View<float, 1>(&out, 1));
    return out;
  };
  for (const auto op : {reference::mean_cosine, cpu::mean_cosine}) {
    EXPECT_LE(cosine(op, q), 1.0f);  // so that tau > 1 corrects every head
    EXPECT_FLOAT_EQ(cosine(op, q), 1.0f);
    EXPECT_FLOAT_EQ(cosine(op, opposite), -1.0f);
    EXPECT_EQ(cosine(op, zero), 0.0f);
  }
}

TEST(Selection, RefusesShapesThatDisagree) {
  Sketch sketch(BoxKind::kMinMax, DType::kF16, 64, 16);
  std::vector<float> floats(4 * 128);
  const View<const float, 2> q(floats.data(), 4, 64);
  for (const auto score : {reference::score_box_pages, cpu::score_box_pages}) {
    EXPECT_THROW(score(View<const float, 2>(floats.data(), 4, 32), sketch.view, 0,
                       View<float, 2>(floats.data(), 4, 1)),
                 Error);
    EXPECT_THROW(score(q, sketch.view, 0, View<float, 2>(floats.data(), 3, 1)), Error);
    EXPECT_THROW(score(q, sketch.view, -1, View<float, 2>(floats.data(), 4, 1)), Error);
  }
  for (const auto pool : {reference::pool_scores, cpu::pool_scores}) {
    EXPECT_THROW(pool(Pooling::kMaxScore, 1, View<float, 2>(floats.data(), 4, 2),
                      View<float, 1>(floats.data(), 3)),
                 Error);
  }
}

}  // namespace
}  // namespace freekv
