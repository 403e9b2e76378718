#include "kvcache/selection.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "freekv/error.hpp"

namespace freekv {
namespace {

// Pages of one head with random keys, kept beside the pool as plain floats.
struct Pages {
  KvShape shape;
  int count;
  Buffer memory;
  KvPool pool;

  Pages(KvShape s, int n, unsigned seed) : shape(s), count(n), memory(s.slot_bytes() * n) {
    pool = {memory.data(), shape, KvLayout::kNHD, n};
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int page = 0; page < n; ++page) {
      for (int head = 0; head < shape.heads; ++head) {
        for (int t = 0; t < shape.page; ++t) {
          for (int e = 0; e < shape.head_dim; ++e) {
            store_element(shape.dtype, key(page, head, t), e, normal(random));
          }
        }
      }
    }
  }
  std::byte* key(int page, int head, int t) const {
    return pool.keys(page, head) + static_cast<size_t>(t) * pool.token_stride();
  }
};

std::vector<float> random_query(int group, int dim, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> q(static_cast<size_t>(group * dim));
  for (float& x : q) x = normal(random);
  return q;
}

// Scores of algorithm.md, section 3, straight from the keys.
double box_score(const Pages& pages, const float* q, int page, int head, bool cuboid) {
  double score = 0;
  for (int e = 0; e < pages.shape.head_dim; ++e) {
    double hi = -1e30;
    double lo = 1e30;
    for (int t = 0; t < pages.shape.page; ++t) {
      const double k = load_element(pages.shape.dtype, pages.key(page, head, t), e);
      hi = std::max(hi, k);
      lo = std::min(lo, k);
    }
    if (cuboid) {
      const double centre = (hi + lo) / 2;
      double radius = 0;
      for (int t = 0; t < pages.shape.page; ++t) {
        radius += std::abs(load_element(pages.shape.dtype, pages.key(page, head, t), e) - centre);
      }
      radius /= pages.shape.page;
      hi = centre + radius;
      lo = centre - radius;
    }
    score += std::max(q[e] * hi, q[e] * lo);
  }
  return score;
}

std::vector<int32_t> naive_selection(const Pages& pages, const std::vector<float>& q, int group,
                                     int head, PageRange range, Pooling pooling, bool cuboid,
                                     int k) {
  std::vector<double> pooled;
  const int d = pages.shape.head_dim;
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  std::vector<std::vector<double>> scores(static_cast<size_t>(group));
  for (int g = 0; g < group; ++g) {
    auto& row = scores[static_cast<size_t>(g)];
    for (int j = range.first; j < range.last; ++j) {
      row.push_back(box_score(pages, q.data() + g * d, j, head, cuboid));
    }
    if (pooling == Pooling::kMeanSoftmax || pooling == Pooling::kMaxSoftmax) {
      double sum = 0;
      for (const double s : row) sum += std::exp(scale * s);
      for (double& s : row) s = std::exp(scale * s) / sum;
    }
  }
  for (int j = 0; j < range.size(); ++j) {
    double sum = 0;
    double most = -1e30;
    for (const auto& row : scores) {
      sum += row[static_cast<size_t>(j)];
      most = std::max(most, row[static_cast<size_t>(j)]);
    }
    const bool mean = pooling == Pooling::kMeanSoftmax || pooling == Pooling::kMeanScore;
    pooled.push_back(mean ? sum : most);
  }
  std::vector<int32_t> order(pooled.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return pooled[static_cast<size_t>(a)] > pooled[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(std::min<int>(k, range.size())));
  std::sort(order.begin(), order.end());
  for (int32_t& page : order) page += range.first;
  return order;
}

struct Case {
  const char* sketch;
  Pooling pooling;
  int page;
};

class Selection : public testing::TestWithParam<Case> {};

TEST_P(Selection, EqualsScoresFromTheKeysThemselves) {
  constexpr int kHeads = 2;
  constexpr int kGroup = 3;
  constexpr int kDim = 16;
  const KvShape shape{kHeads, kDim, GetParam().page, DType::kF32};
  const Pages pages(shape, 41, 7);
  const auto backend = make_reference_backend();
  SketchStore store(find_sketch(GetParam().sketch), shape, pages.count);
  std::vector<float> scores(kGroup * 41);
  std::vector<float> pooled(41);
  for (int head = 0; head < kHeads; ++head) {
    for (int page = 0; page < pages.count; ++page) {
      store.build(*backend, pages.pool, page, head, page);
    }
  }
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto q = random_query(kGroup, kDim, seed);
    for (int head = 0; head < kHeads; ++head) {
      for (const PageRange range : {PageRange{0, 41}, PageRange{3, 37}, PageRange{15, 33}}) {
        std::vector<int32_t> out(6, -1);
        const SelectionParams params{&store,
                                     head,
                                     View<const float, 2>(q.data(), kGroup, kDim),
                                     range,
                                     GetParam().pooling,
                                     1 / std::sqrt(static_cast<float>(kDim))};
        // In two parts, as two threads would.
        score_candidates(*backend, params, {scores, pooled}, 0, 11);
        score_candidates(*backend, params, {scores, pooled}, 11, range.size());
        ASSERT_EQ(select_scored(*backend, params, {scores, pooled}, out), 6);
        EXPECT_EQ(out, naive_selection(pages, q, kGroup, head, range, GetParam().pooling,
                                       std::string_view(GetParam().sketch) == "cuboid", 6));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Selection,
                         testing::Values(Case{"minmax", Pooling::kMeanSoftmax, 32},
                                         Case{"minmax", Pooling::kMaxSoftmax, 16},
                                         Case{"minmax", Pooling::kMeanScore, 16},
                                         Case{"minmax", Pooling::kMaxScore, 64},
                                         Case{"cuboid", Pooling::kMeanSoftmax, 16},
                                         Case{"cuboid", Pooling::kMaxSoftmax, 32},
                                         Case{"cuboid", Pooling::kMeanScore, 64},
                                         Case{"cuboid", Pooling::kMaxScore, 32}));

TEST(SelectScored, TakesAllWhenThereIsNothingToChoose) {
  const auto backend = make_reference_backend();
  std::vector<int32_t> out(4, -1);
  // Neither sketches nor scratch are touched.
  SelectionParams params;
  params.candidates = {5, 8};
  EXPECT_EQ(select_scored(*backend, params, {}, out), 3);
  EXPECT_EQ(out, (std::vector<int32_t>{5, 6, 7, -1}));
  params.candidates = {5, 3};
  EXPECT_EQ(select_scored(*backend, params, {}, out), 0);
}

TEST(SelectScored, PrefersTheLowerOfEqualPages) {
  const KvShape shape{1, 8, 16, DType::kF16};
  Pages pages(shape, 1, 3);
  const auto backend = make_reference_backend();
  SketchStore store(find_sketch("minmax"), shape, 20);
  for (int page = 0; page < 20; ++page) store.build(*backend, pages.pool, 0, 0, page);
  std::vector<float> scores(20);
  std::vector<float> pooled(20);
  std::vector<int32_t> out(3);
  const auto q = random_query(1, 8, 1);
  const SelectionParams params{
      &store, 0, View<const float, 2>(q.data(), 1, 8), {4, 20}, Pooling::kMeanSoftmax, 1};
  score_candidates(*backend, params, {scores, pooled}, 0, 16);
  select_scored(*backend, params, {scores, pooled}, out);
  EXPECT_EQ(out, (std::vector<int32_t>{4, 5, 6}));
}

TEST(Sketches, AreListedAndUnknownNamesRefused) {
  EXPECT_EQ(sketch_names(), "cuboid, key2, mean, minmax, minmax+key2");
  EXPECT_EQ(find_sketch("minmax").page_bytes({2, 64, 32, DType::kF16}), 256u);
  try {
    find_sketch("box");
    FAIL() << "an unknown sketch was found";
  } catch (const Error& error) {
    EXPECT_EQ(error.message(), "sketch is 'mean', must be one of cuboid, minmax");
  }
}

TEST(Pooling, ParsesItsNames) {
  EXPECT_EQ(parse_pooling("max_score"), Pooling::kMaxScore);
  EXPECT_THROW(parse_pooling("softmax"), Error);
}

}  // namespace
}  // namespace freekv
