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

double mean_score(const Pages& pages, const float* q, int page, int head) {
  double score = 0;
  for (int t = 0; t < pages.shape.page; ++t) {
    for (int e = 0; e < pages.shape.head_dim; ++e) {
      score += q[e] * load_element(pages.shape.dtype, pages.key(page, head, t), e);
    }
  }
  return score / pages.shape.page;
}

// By the backend's operation, for one page in a sketch of its own.
double key2_score(const Pages& pages, const float* q, int page, int head, float scale) {
  const auto backend = make_reference_backend();
  Key2SketchView view{nullptr, pages.shape.dtype, pages.shape.head_dim, pages.shape.page};
  std::vector<std::byte> memory(view.page_bytes());
  view.data = memory.data();
  backend->build_key2_sketch(pages.pool, page, head, view, 0);
  const int32_t first = 0;
  float score = 0;
  backend->score_key2_pages(View<const float, 2>(q, 1, pages.shape.head_dim), view, scale,
                            std::span(&first, 1), View<float, 2>(&score, 1, 1));
  return score;
}

// What the softmax is of.
double logit(const Pages& pages, const float* q, int page, int head, std::string_view sketch) {
  const double scale = 1 / std::sqrt(static_cast<double>(pages.shape.head_dim));
  if (sketch == "key2") return key2_score(pages, q, page, head, static_cast<float>(scale));
  if (sketch == "mean") return scale * mean_score(pages, q, page, head);
  return scale * box_score(pages, q, page, head, sketch == "cuboid");
}

std::vector<int32_t> naive_selection(const Pages& pages, const std::vector<float>& q, int group,
                                     int head, const std::vector<int32_t>& from, Pooling pooling,
                                     std::string_view sketch, int k) {
  std::vector<double> pooled;
  const int d = pages.shape.head_dim;
  std::vector<std::vector<double>> scores(static_cast<size_t>(group));
  for (int g = 0; g < group; ++g) {
    auto& row = scores[static_cast<size_t>(g)];
    for (const int32_t j : from) row.push_back(logit(pages, q.data() + g * d, j, head, sketch));
    if (pooling == Pooling::kMeanSoftmax || pooling == Pooling::kMaxSoftmax) {
      double sum = 0;
      for (const double s : row) sum += std::exp(s);
      for (double& s : row) s = std::exp(s) / sum;
    }
  }
  for (size_t j = 0; j < from.size(); ++j) {
    double sum = 0;
    double most = -1e30;
    for (const auto& row : scores) {
      sum += row[j];
      most = std::max(most, row[j]);
    }
    const bool mean = pooling == Pooling::kMeanSoftmax || pooling == Pooling::kMeanScore;
    pooled.push_back(mean ? sum : most);
  }
  std::vector<int32_t> order(pooled.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return pooled[static_cast<size_t>(a)] > pooled[static_cast<size_t>(b)];
  });
  order.resize(std::min(static_cast<size_t>(k), order.size()));
  std::sort(order.begin(), order.end());
  for (int32_t& page : order) page = from[static_cast<size_t>(page)];
  return order;
}

struct Case {
  const char* sketch;
  Pooling pooling;
  int page;
};

constexpr int kHeads = 2;
constexpr int kGroup = 3;
constexpr int kDim = 16;

class Selection : public testing::TestWithParam<Case> {
 protected:
  static SelectionParams make_params(const SketchStore& store, int head,
                                     const std::vector<float>& q, PageRange range) {
    SelectionParams params;
    params.sketches = &store;
    params.head = head;
    params.query = {View<const float, 2>(q.data(), kGroup, kDim),
                    1 / std::sqrt(static_cast<float>(kDim))};
    params.candidates = params.columns = range;
    params.pooling = GetParam().pooling;
    return params;
  }
};

TEST_P(Selection, EqualsScoresFromTheKeysThemselves) {
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
        const SelectionParams params = make_params(store, head, q, range);
        std::vector<int32_t> from(static_cast<size_t>(range.size()));
        std::iota(from.begin(), from.end(), range.first);
        const SelectionScratch scratch{scores, pooled, {}};
        // In two parts, as two threads would.
        score_candidates(*backend, params, scratch, false, 0, 11);
        score_candidates(*backend, params, scratch, false, 11, range.size());
        ASSERT_EQ(select_scored(*backend, params, scratch, out), 6);
        EXPECT_EQ(out, naive_selection(pages, q, kGroup, head, from, GetParam().pooling,
                                       GetParam().sketch, 6));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, Selection,
    testing::Values(Case{"minmax", Pooling::kMeanSoftmax, 32},
                    Case{"minmax", Pooling::kMaxSoftmax, 16},
                    Case{"minmax", Pooling::kMeanScore, 16}, Case{"minmax", Pooling::kMaxScore, 64},
                    Case{"cuboid", Pooling::kMeanSoftmax, 16},
                    Case{"cuboid", Pooling::kMaxSoftmax, 32},
                    Case{"cuboid", Pooling::kMeanScore, 64}, Case{"cuboid", Pooling::kMaxScore, 32},
                    Case{"mean", Pooling::kMeanSoftmax, 32}, Case{"mean", Pooling::kMaxScore, 16},
                    Case{"key2", Pooling::kMeanSoftmax, 32}, Case{"key2", Pooling::kMaxSoftmax, 16},
                    Case{"key2", Pooling::kMeanScore, 32}, Case{"key2", Pooling::kMaxScore, 64}));

using TwoStages = Selection;

// The candidates that minmax likes best for any query of the group, ranked by key2; in columns of
// more pages, too.
TEST_P(TwoStages, RankAShareOfTheCandidates) {
  const KvShape shape{kHeads, kDim, GetParam().page, DType::kF16};
  const Pages pages(shape, 70, 7);
  const auto backend = make_reference_backend();
  SketchStore store(find_sketch(GetParam().sketch), shape, pages.count);
  for (int page = 0; page < pages.count; ++page) {
    store.build(*backend, pages.pool, page, 1, page);
  }
  std::vector<float> scores(kGroup * 70);
  std::vector<float> pooled(70);
  std::vector<int32_t> listed(70);
  const SelectionScratch scratch{scores, pooled, listed};
  for (unsigned seed = 0; seed < 10; ++seed) {
    const auto q = random_query(kGroup, kDim, seed);
    // A fifth, or twice the 4 that are wanted, or all that there are.
    for (const auto& [range, count] :
         {std::pair{PageRange{2, 70}, 14}, std::pair{PageRange{3, 37}, 8},
          std::pair{PageRange{4, 10}, 6}}) {
      SelectionParams params = make_params(store, 1, q, range);
      params.columns = {0, 70};
      ASSERT_TRUE(lists_candidates(params));
      ASSERT_EQ(has_first_stage(params, 4), count < range.size());
      if (count < range.size()) score_candidates(*backend, params, scratch, true, 0, range.size());
      ASSERT_EQ(list_candidates(*backend, params, scratch, 4), count);
      std::vector<int32_t> from(static_cast<size_t>(range.size()));
      std::iota(from.begin(), from.end(), range.first);
      const auto expected_list =
          naive_selection(pages, q, kGroup, 1, from, Pooling::kMaxSoftmax, "minmax", count);
      const auto kept = std::span(listed).first(static_cast<size_t>(count));
      ASSERT_TRUE(std::equal(kept.begin(), kept.end(), expected_list.begin(), expected_list.end()));
      score_listed(*backend, params, scratch, kept.first(3));
      score_listed(*backend, params, scratch, kept.subspan(3));
      std::vector<int32_t> out(4, -1);
      ASSERT_EQ(select_scored(*backend, params, scratch, out), 4);
      EXPECT_EQ(out,
                naive_selection(pages, q, kGroup, 1, expected_list, GetParam().pooling, "key2", 4));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(MinMaxKey2, TwoStages,
                         testing::Values(Case{"minmax+key2", Pooling::kMeanSoftmax, 32},
                                         Case{"minmax+key2", Pooling::kMaxScore, 16}));

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
  SelectionParams params;
  params.sketches = &store;
  params.query.q = View<const float, 2>(q.data(), 1, 8);
  params.candidates = params.columns = {4, 20};
  score_candidates(*backend, params, {scores, pooled, {}}, false, 0, 16);
  select_scored(*backend, params, {scores, pooled, {}}, out);
  EXPECT_EQ(out, (std::vector<int32_t>{4, 5, 6}));
}

TEST(Sketches, AreListedAndUnknownNamesRefused) {
  EXPECT_EQ(sketch_names(), "cuboid, key2, key2+values, landmark, mean, minmax, minmax+key2");
  // p = 32, d = 128 in 16 bits, as algorithm.md, section 2 counts them.
  const KvShape shape{2, 128, 32, DType::kBF16};
  EXPECT_EQ(find_sketch("minmax").page_bytes(shape), 512u);
  EXPECT_EQ(find_sketch("cuboid").page_bytes(shape), 512u);
  EXPECT_EQ(find_sketch("mean").page_bytes(shape), 256u);
  EXPECT_EQ(find_sketch("key2").page_bytes(shape), 1536u);
  EXPECT_EQ(find_sketch("minmax+key2").page_bytes(shape), 2048u);
  EXPECT_EQ(find_sketch("key2+values").page_bytes(shape), 1792u);
  EXPECT_EQ(mass_sketch_names(), "key2, key2+values, minmax+key2");
  try {
    find_sketch("box");
    FAIL() << "an unknown sketch was found";
  } catch (const Error& error) {
    EXPECT_EQ(error.message(),
              "sketch is 'box', must be one of cuboid, key2, key2+values, landmark, mean, minmax, "
              "minmax+key2");
  }
}

TEST(Pooling, ParsesItsNames) {
  EXPECT_EQ(parse_pooling("max_score"), Pooling::kMaxScore);
  EXPECT_THROW(parse_pooling("softmax"), Error);
}

}  // namespace
}  // namespace freekv
