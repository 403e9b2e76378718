// Attention mass of pages, from keys of 2 bits and exact: SIMD against the scalar reference, and
// the reference against the keys themselves.
#include <gtest/gtest.h>

#include <cmath>

#include "backends/cpu/selection.hpp"
#include "backends/kv_cases.hpp"
#include "backends/op_test.hpp"
#include "backends/reference/selection.hpp"
#include "freekv/error.hpp"

namespace freekv {
namespace {

constexpr float kScale = 0.125f;

/// Every page size, head dimension, dtype and layout that the case table of KV has, and the pages
/// models use.
std::vector<KvShape> shapes() {
  std::vector<KvShape> result = cases::kv_shapes();
  for (const DType dtype : cases::kKvTypes) {
    for (const auto& [dim, page] : {std::array{64, 16}, std::array{72, 32}, std::array{128, 32},
                                    std::array{256, 64}, std::array{176, 24}}) {
      result.push_back({2, dim, page, dtype});
    }
  }
  return result;
}

/// A sketch whose pages are NaN, and its levels anything, until they are built.
struct Key2 {
  Key2(const KvShape& shape, int64_t pages)
      : view{nullptr, shape.dtype, shape.head_dim, shape.page} {
    bytes.resize(static_cast<size_t>(pages) * view.page_bytes(), std::byte{0xff});
    view.data = bytes.data();
  }
  Key2SketchView view;
  std::vector<std::byte> bytes;
};

Key2 reference_sketch(const cases::PagedKv& kv, int head) {
  Key2 sketch(kv.pool().shape, static_cast<int64_t>(kv.slots().size()));
  for (size_t j = 0; j < kv.slots().size(); ++j) {
    reference::build_key2_sketch(kv.pool(), kv.slots()[j], head, sketch.view,
                                 static_cast<int64_t>(j));
  }
  return sketch;
}

float key_of(const cases::PagedKv& kv, int32_t slot, int head, int token, int e) {
  const KvPool& pool = kv.pool();
  return load_element(pool.shape.dtype,
                      pool.keys(slot, head) + static_cast<size_t>(token) * pool.token_stride(), e);
}

TEST(Key2Sketch, HasTheReferencesBytes) {
  for (const KvShape& shape : shapes()) {
    for (const KvLayout layout : cases::kLayouts) {
      SCOPED_TRACE(cases::shape_name(shape, layout));
      const cases::PagedKv kv(shape, layout, int64_t{3} * shape.page, 5);
      const Key2 expected = reference_sketch(kv, shape.heads - 1);
      for_each_simd_target([&] {
        Key2 actual(shape, 3);
        for (size_t j = 0; j < 3; ++j) {
          cpu::build_key2_sketch(kv.pool(), kv.slots()[j], shape.heads - 1, actual.view,
                                 static_cast<int64_t>(j));
        }
        EXPECT_TRUE(actual.bytes == expected.bytes);
      });
    }
  }
}

// The levels say where a key lies: within half a step, as far as lo and step are rounded.
TEST(Key2Sketch, EstimatesEveryKeyWithinHalfAStep) {
  for (const KvShape& shape : shapes()) {
    SCOPED_TRACE(cases::shape_name(shape, KvLayout::kNHD));
    const cases::PagedKv kv(shape, KvLayout::kNHD, shape.page, 9);
    const Key2 sketch = reference_sketch(kv, 0);
    const double rounding = shape.dtype == DType::kBF16 ? 0x1p-6 : 0x1p-9;
    for (int t = 0; t < shape.page; ++t) {
      for (int e = 0; e < shape.head_dim; ++e) {
        const float lo = load_element(shape.dtype, sketch.view.lo(0), e);
        const float step = load_element(shape.dtype, sketch.view.step(0), e);
        const auto byte = std::to_integer<int>(sketch.view.levels(0, e / 16, t)[e % 4]);
        const int level = byte >> e % 16 / 4 * 2 & 3;
        const double key = key_of(kv, kv.slots()[0], 0, t, e);
        ASSERT_LE(std::abs(lo + step * (level + 0.5) - key), step * (0.5 + 4 * rounding))
            << "token " << t << ", channel " << e;
      }
    }
  }
}

TEST(Key2Sketch, ScoresAgreeWithReference) {
  for (const KvShape& shape : shapes()) {
    const cases::PagedKv kv(shape, KvLayout::kNHD, int64_t{18} * shape.page, 7);
    Key2 sketch = reference_sketch(kv, 0);
    for (const size_t n : {0, 1, 15, 17}) {
      for (const int group : {1, 2, 3, 7, 16}) {
        SCOPED_TRACE(
            fmt::format("{} G={} n={}", cases::shape_name(shape, KvLayout::kNHD), group, n));
        // In no order and not all of them; one twice.
        std::vector<int32_t> pages;
        for (size_t i = 0; i < n; ++i) pages.push_back(static_cast<int32_t>(i * 5 % 17));
        const std::vector<float> q =
            cases::random_floats(int64_t{1} * group * shape.head_dim, 11, 2.0f);
        const View<const float, 2> queries(q.data(), group, shape.head_dim);
        const auto run = [&](auto score) {
          std::vector<float> scores = cases::poisoned(static_cast<int64_t>(group * n));
          score(queries, sketch.view, kScale, pages, View<float, 2>(scores.data(), group, n));
          return scores;
        };
        const std::vector<float> expected = run(reference::score_key2_pages);
        for_each_simd_target(
            [&] { EXPECT_LE(cases::relative_error(run(cpu::score_key2_pages), expected), 3e-6); });
      }
    }
  }
}

// Weights of 8 bits cost little beside keys of 2: the score stays by that of the estimated keys,
// which is by that of the keys.
TEST(Key2Sketch, ScoresAreTheMassOfTheEstimatedKeys) {
  for (const DType dtype : cases::kKvTypes) {
    const KvShape shape{1, 128, 32, dtype};
    const cases::PagedKv kv(shape, KvLayout::kHND, int64_t{20} * shape.page, 13);
    const Key2 sketch = reference_sketch(kv, 0);
    const std::vector<float> q = cases::random_floats(shape.head_dim, 17);
    std::vector<int32_t> pages(20);
    std::iota(pages.begin(), pages.end(), 0);
    std::vector<float> scores = cases::poisoned(20);
    const float scale = 1 / std::sqrt(128.0f);
    reference::score_key2_pages(View<const float, 2>(q.data(), 1, 128), sketch.view, scale, pages,
                                View<float, 2>(scores.data(), 1, 20));
    for (size_t j = 0; j < 20; ++j) {
      double estimated = 0, exact = 0;
      for (int t = 0; t < 32; ++t) {
        double a = 0, b = 0;
        for (int e = 0; e < 128; ++e) {
          const auto page = static_cast<int64_t>(j);
          const auto byte = std::to_integer<int>(sketch.view.levels(page, e / 16, t)[e % 4]);
          const float lo = load_element(dtype, sketch.view.lo(page), e);
          const float step = load_element(dtype, sketch.view.step(page), e);
          a += q[static_cast<size_t>(e)] * (lo + step * ((byte >> e % 16 / 4 * 2 & 3) + 0.5));
          b += q[static_cast<size_t>(e)] * key_of(kv, kv.slots()[j], 0, t, e);
        }
        estimated += std::exp(scale * a);
        exact += std::exp(scale * b);
      }
      EXPECT_NEAR(scores[j], std::log(estimated), 0.04);
      EXPECT_NEAR(scores[j], std::log(exact), 0.35);
    }
  }
}

TEST(Key2Sketch, AConstantPageScoresItsKeyExactly) {
  const KvShape shape{1, 64, 32, DType::kF16};
  std::vector<std::byte> memory(shape.slot_bytes());
  const KvPool pool{memory.data(), shape, KvLayout::kNHD, 1};
  for (int t = 0; t < 32; ++t) {
    for (int e = 0; e < 64; ++e) {
      store_element(DType::kF16, pool.keys(0, 0) + static_cast<size_t>(t) * pool.token_stride(), e,
                    0.5f);
    }
  }
  Key2 sketch(shape, 1);
  const std::vector<float> q(64, 0.25f);
  const int32_t page = 0;
  for_each_simd_target([&] {
    cpu::build_key2_sketch(pool, 0, 0, sketch.view, 0);
    float score = std::nanf("");
    cpu::score_key2_pages(View<const float, 2>(q.data(), 1, 64), sketch.view, 1,
                          std::span(&page, 1), View<float, 2>(&score, 1, 1));
    EXPECT_NEAR(score, 8 + std::log(32.0), 1e-5);
  });
}

TEST(ExactPages, AgreeWithReference) {
  for (const KvShape& shape : shapes()) {
    for (const KvLayout layout : cases::kLayouts) {
      const cases::PagedKv kv(shape, layout, int64_t{4} * shape.page - shape.page / 2, 21);
      const int last = shape.page - shape.page / 2;
      for (const size_t n : {0, 1, 4}) {
        for (const int group : {1, 2, 3, 7, 16}) {
          SCOPED_TRACE(fmt::format("{} G={} n={}", cases::shape_name(shape, layout), group, n));
          const AttentionRow row{kv.pool(), shape.heads - 1, kv.slots().last(n), last};
          const std::vector<float> q =
              cases::random_floats(int64_t{1} * group * shape.head_dim, 23, 2.0f);
          const View<const float, 2> queries(q.data(), group, shape.head_dim);
          const auto run = [&](auto score) {
            std::vector<float> scores = cases::poisoned(static_cast<int64_t>(group * n));
            score(queries, row, kScale, View<float, 2>(scores.data(), group, n));
            return scores;
          };
          const std::vector<float> expected = run(reference::score_exact_pages);
          for_each_simd_target([&] {
            EXPECT_LE(cases::relative_error(run(cpu::score_exact_pages), expected), 3e-6);
          });
        }
      }
    }
  }
}

// What decode attention sums: values that are all ones but in one page give that page's share.
TEST(ExactPages, AreTheSharesOfDecodeAttention) {
  const KvShape shape{1, 64, 16, DType::kF32};
  const cases::PagedKv kv(shape, KvLayout::kNHD, 5 * 16 + 7, 31);
  const std::vector<float> q = cases::random_floats(64, 37);
  const AttentionRow row{kv.pool(), 0, kv.slots(), 7};
  std::vector<float> scores(6);
  cpu::score_exact_pages(View<const float, 2>(q.data(), 1, 64), row, kScale,
                         View<float, 2>(scores.data(), 1, 6));
  std::vector<float> mass(6);
  cpu::pool_scores(Pooling::kMeanSoftmax, 1, View<float, 2>(scores.data(), 1, 6),
                   View<float, 1>(mass.data(), 6));
  for (size_t marked = 0; marked < 6; ++marked) {
    for (size_t j = 0; j < 6; ++j) {
      for (int t = 0; t < (j == 5 ? 7 : 16); ++t) {
        std::byte* value =
            kv.pool().values(kv.slots()[j], 0) + static_cast<size_t>(t) * kv.pool().token_stride();
        store_element(DType::kF32, value, 0, j == marked ? 1.0f : 0.0f);
      }
    }
    ExecutionContext ctx(1);
    const auto backend = make_cpu_backend();
    backend->reserve(ctx, {.max_pages = 6, .heads = 1, .kv_heads = 1, .head_dim = 64, .page = 16});
    std::vector<float> out = cases::poisoned(64);
    backend->decode_attention(ctx, View<const float, 3>(q.data(), 1, 1, 64), std::span(&row, 1),
                              kScale, View<float, 3>(out.data(), 1, 1, 64), {});
    EXPECT_NEAR(out[0], mass[marked], 1e-6);
  }
}

TEST(PageMass, RefusesShapesThatDisagree) {
  const KvShape shape{1, 64, 16, DType::kF16};
  const cases::PagedKv kv(shape, KvLayout::kNHD, 32, 1);
  Key2 sketch(shape, 2);
  std::vector<float> floats(4 * 128);
  const View<const float, 2> q(floats.data(), 2, 64);
  const View<float, 2> two(floats.data() + 256, 2, 2);
  const std::array<int32_t, 2> pages{0, 1}, negative{0, -1};
  for (const auto build : {reference::build_key2_sketch, cpu::build_key2_sketch}) {
    EXPECT_THROW(build(kv.pool(), kv.pool().slots, 0, sketch.view, 0), Error);
    EXPECT_THROW(build(kv.pool(), 0, 1, sketch.view, 0), Error);
    Key2 other({1, 64, 32, DType::kF16}, 1);
    EXPECT_THROW(build(kv.pool(), 0, 0, other.view, 0), Error);
  }
  for (const auto score : {reference::score_key2_pages, cpu::score_key2_pages}) {
    EXPECT_THROW(score(q, sketch.view, 1, std::span(pages).first(1), two), Error);
    EXPECT_THROW(score(q, sketch.view, 1, negative, two), Error);
    EXPECT_THROW(score(View<const float, 2>(floats.data(), 2, 32), sketch.view, 1, pages, two),
                 Error);
  }
  for (const auto score : {reference::score_exact_pages, cpu::score_exact_pages}) {
    EXPECT_THROW(score(q, {kv.pool(), 1, kv.slots(), 16}, 1, two), Error);
    EXPECT_THROW(score(q, {kv.pool(), 0, kv.slots(), 17}, 1, two), Error);
    EXPECT_THROW(score(q, {kv.pool(), 0, kv.slots().first(1), 16}, 1, two), Error);
  }
}

}  // namespace
}  // namespace freekv
