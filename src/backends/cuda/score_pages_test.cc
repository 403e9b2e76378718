// Sketches and scores of the device against plain loops.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"
#include "backends/cuda/test_arrays.hpp"
#include "backends/op_cases.hpp"
#include "core/dtype.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Random values in the KV type; `special` puts in zeros of both signs and NaN.
std::vector<uint16_t> random_kv(KvType type, int64_t count, uint32_t seed, bool special = false) {
  std::vector<float> values = cases::random_floats(count, seed);
  if (special) {
    for (size_t i = 0; i < values.size(); i += 7) values[i] = i % 2 == 0 ? 0.0f : -0.0f;
    for (size_t i = 3; i < values.size(); i += 97) values[i] = kNaN;
  }
  std::vector<uint16_t> stored(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    store_element(dtype_of(type), reinterpret_cast<std::byte*>(stored.data()),
                  static_cast<int64_t>(i), values[i]);
  }
  return stored;
}

float value_of(KvType type, const std::vector<uint16_t>& values, int64_t i) {
  return load_element(dtype_of(type), reinterpret_cast<const std::byte*>(values.data()), i);
}

std::vector<KvGeometry> geometries() {
  std::vector<KvGeometry> all;
  for (const KvType type : {KvType::kBF16, KvType::kF16}) {
    for (const auto& [heads, group, dim, page] :
         {std::array{1, 1, 64, 16}, std::array{2, 3, 80, 32}, std::array{3, 5, 96, 64},
          std::array{8, 4, 128, 32}, std::array{2, 16, 256, 16}, std::array{1, 7, 128, 16},
          std::array{5, 6, 64, 32}, std::array{1, 16, 128, 64}}) {
      all.push_back({heads, group, dim, page, type});
    }
  }
  return all;
}

// --- sketches ------------------------------------------------------------------------------------

// Where token t's key of a head stands in the tier that is sketched from.
int64_t key_at(const KvGeometry& kv, bool budgeted, int page, int t, int head) {
  return budgeted ? kv.slow_head_page(page, head) + int64_t{t} * kv.head_dim
                  : kv.fast_key(page, t, head);
}

bool same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

void expect_sketch(const KvGeometry& kv, bool budgeted, const std::vector<uint16_t>& kv_values,
                   const std::vector<uint16_t>& sketch, int max_pages, int page, int head) {
  const int64_t at = (int64_t{head} * max_pages + page) * 2 * kv.head_dim;
  for (int e = 0; e < kv.head_dim; ++e) {
    float hi = value_of(kv.type, kv_values, key_at(kv, budgeted, page, 0, head) + e);
    float lo = hi;
    for (int t = 1; t < kv.page; ++t) {
      const float key = value_of(kv.type, kv_values, key_at(kv, budgeted, page, t, head) + e);
      hi = std::max(hi, key);
      lo = std::min(lo, key);
    }
    ASSERT_TRUE(same(hi, value_of(kv.type, sketch, at + e)))
        << "hi of page " << page << " head " << head << " channel " << e;
    ASSERT_TRUE(same(lo, value_of(kv.type, sketch, at + kv.head_dim + e)))
        << "lo of page " << page << " head " << head << " channel " << e;
  }
}

void check_sketches(const KvGeometry& kv, bool budgeted, int first, int count) {
  constexpr int kMaxPages = 9;
  const std::vector<uint16_t> values = random_kv(kv.type, kMaxPages * kv.slot(), 11, true);
  const std::vector<uint16_t> poison(
      static_cast<size_t>(kv.kv_heads) * kMaxPages * 2 * static_cast<size_t>(kv.head_dim), 0xffff);
  const DeviceBuffer sketch = to_device(poison);
  PinnedBuffer slow(budgeted ? values.size() * 2 : 0, 1);
  DeviceBuffer fast;
  if (budgeted) {
    std::memcpy(slow.data(), values.data(), values.size() * 2);
  } else {
    fast = to_device(values);
  }
  SketchPagesParams params;
  params.kv = kv;
  params.layer.budgeted = budgeted;
  params.layer.max_pages = kMaxPages;
  params.layer.fast = fast.data();
  params.layer.slow = slow.device();
  params.layer.sketch = sketch.data();
  params.first = first;
  params.count = count;
  const Stream stream;
  sketch_pages(params, stream);
  stream.synchronize();

  const auto actual = to_host<uint16_t>(sketch);
  for (int head = 0; head < kv.kv_heads; ++head) {
    for (int page = 0; page < kMaxPages; ++page) {
      if (page >= first && page < first + count) {
        ASSERT_NO_FATAL_FAILURE(expect_sketch(kv, budgeted, values, actual, kMaxPages, page, head));
        continue;
      }
      const size_t at =
          static_cast<size_t>(head * kMaxPages + page) * 2 * static_cast<size_t>(kv.head_dim);
      for (size_t e = 0; e < 2 * static_cast<size_t>(kv.head_dim); ++e) {
        ASSERT_EQ(actual[at + e], 0xffff) << "page " << page << " was not asked for";
      }
    }
  }
}

TEST(SketchPages, EqualPlainLoops) {
  for (const KvGeometry& kv : geometries()) {
    for (const bool budgeted : {false, true}) {
      SCOPED_TRACE(name_of(kv) + (budgeted ? " slow" : " fast"));
      ASSERT_NO_FATAL_FAILURE(check_sketches(kv, budgeted, 0, 9));
      ASSERT_NO_FATAL_FAILURE(check_sketches(kv, budgeted, 4, 1));
      ASSERT_NO_FATAL_FAILURE(check_sketches(kv, budgeted, 2, 0));
    }
  }
}

// --- scores --------------------------------------------------------------------------------------

// A batch whose sequences have the given candidates, in two layers of which the second is scored.
class ScoreCase {
 public:
  ScoreCase(const KvGeometry& kv, std::vector<int> candidates, Pooling pooling, int ahead)
      : kv_(kv), candidates_(std::move(candidates)) {
    const auto n = static_cast<int32_t>(candidates_.size());
    map_.page = kv.page;
    map_.sink = 1;
    map_.window = 2;
    map_.selected = map_.resident = kSelected;
    map_.budget = int64_t{kv.page} * (map_.sink + map_.window + kSelected);
    for (int32_t b = 0; b < n; ++b) sequence_.push_back(n - 1 - b);
    tokens_.resize(candidates_.size());
    layers_.resize(candidates_.size() * 2);
    for (size_t b = 0; b < candidates_.size(); ++b) add_sequence(b, ahead);
    q_ = cases::random_floats(rows() * kv.group * kv.head_dim, 5);
    mode_.assign(static_cast<size_t>(rows()), RowMode::kSpeculative);

    params_.kv = kv;
    params_.map = map_;
    params_.layer = 1;
    params_.scale = 1 / std::sqrt(static_cast<float>(kv.head_dim));
    params_.which = RowMode::kSpeculative;
    params_.ahead = ahead;
    params_.pooling = pooling;
    params_.max_candidates =
        std::max(1, *std::max_element(candidates_.begin(), candidates_.end())) + 70;
  }

  void set_mode(int row, RowMode mode) { mode_[static_cast<size_t>(row)] = mode; }
  // Row `to` takes the inputs of row `from` of another case of one row.
  void take_row(const ScoreCase& other, int from) {
    const auto size = static_cast<size_t>(kv_.group * kv_.head_dim);
    std::copy_n(other.q_.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(from) * size), size,
                q_.begin());
    const auto b = static_cast<size_t>(from / other.kv_.kv_heads);
    const int64_t head = from % other.kv_.kv_heads;
    const int64_t width = int64_t{max_pages(0)} * 2 * kv_.head_dim;
    sketch_[0].assign(other.sketch_[b].begin() + head * width,
                      other.sketch_[b].begin() + (head + 1) * width);
  }

  int64_t rows() const { return static_cast<int64_t>(candidates_.size()) * kv_.kv_heads; }
  int64_t stride() const { return SelectionScratch::padded(params_.max_candidates); }

  // Runs and keeps what is in the scratch afterwards.
  void run() {
    std::vector<DeviceBuffer> sketches;
    for (size_t b = 0; b < candidates_.size(); ++b) {
      sketches.push_back(to_device(sketch_[b]));
      layers_[static_cast<size_t>(sequence_[b]) * 2 + 1].sketch = sketches.back().data();
    }
    const DeviceBuffer sequence = to_device(sequence_), tokens = to_device(tokens_),
                       layers = to_device(layers_), q = to_device(q_), mode = to_device(mode_);
    const auto n = static_cast<int32_t>(candidates_.size());
    const size_t bytes = select_scratch(kv_, n, params_.max_candidates);
    const DeviceBuffer scratch = to_device(std::vector<float>(bytes / sizeof(float), kNaN));
    params_.batch = {n, 2, sequence.as<int32_t>(), tokens.as<int64_t>(),
                     layers.as<SequenceLayer>()};
    params_.q = q.as<float>();
    params_.mode = mode.as<RowMode>();
    params_.scratch = scratch.data();
    const Stream stream;
    score_pages(params_, stream);
    stream.synchronize();
    memory_ = to_host<float>(scratch);
    params_.scratch = memory_.data();
  }

  const float* scores(int row, int g) const { return SelectionScratch(params_).row_scores(row, g); }

  void expect_rows() const {
    for (int row = 0; row < rows(); ++row) {
      const int n = candidates_[static_cast<size_t>(row / kv_.kv_heads)];
      const bool takes_part = mode_[static_cast<size_t>(row)] == params_.which && n > kSelected;
      for (int g = 0; g < kv_.group; ++g) {
        SCOPED_TRACE("row " + std::to_string(row) + " head " + std::to_string(g));
        if (takes_part) {
          ASSERT_NO_FATAL_FAILURE(expect_scores(row, g, n));
          if (has_softmax(params_.pooling)) {
            ASSERT_NO_FATAL_FAILURE(expect_splits(row, g, n));
          }
        } else {
          for (int64_t i = 0; i < stride(); ++i) ASSERT_TRUE(std::isnan(scores(row, g)[i])) << i;
        }
      }
    }
  }

 private:
  static constexpr int kSelected = 3;

  int32_t max_pages(size_t b) const { return map_.sink + std::max(candidates_[b], 0) + 5; }

  void add_sequence(size_t b, int ahead) {
    const auto s = static_cast<size_t>(sequence_[b]);
    // T + ahead such that it has so many candidates; window_begin() rounds down. T - 1 is stored.
    const int64_t total = int64_t{kv_.page} * (map_.window + map_.sink + candidates_[b]) +
                          static_cast<int64_t>(b) % kv_.page;
    tokens_[s] = total - ahead - 1;
    SequenceLayer& layer = layers_[s * 2 + 1];
    layer.max_pages = max_pages(b);
    sketch_.push_back(random_kv(kv_.type,
                                int64_t{kv_.kv_heads} * layer.max_pages * 2 * kv_.head_dim,
                                static_cast<uint32_t>(b) + 21));
    const auto d = static_cast<size_t>(kv_.head_dim);
    for (size_t at = 0; at < sketch_[b].size(); at += 2 * d) {
      for (size_t hi = at; hi < at + d; ++hi) {
        const auto value = [&](size_t i) {
          return value_of(kv_.type, sketch_[b], static_cast<int64_t>(i));
        };
        if (value(hi) < value(hi + d)) std::swap(sketch_[b][hi], sketch_[b][hi + d]);
      }
    }
  }

  void expect_scores(int row, int g, int n) const {
    const auto b = static_cast<size_t>(row / kv_.kv_heads);
    const int d = kv_.head_dim, head = row % kv_.kv_heads;
    const float* q = q_.data() + (int64_t{row} * kv_.group + g) * d;
    for (int i = 0; i < n; ++i) {
      const int64_t at = (int64_t{head} * max_pages(b) + map_.sink + i) * 2 * d;
      double expected = 0, size = 0;
      for (int e = 0; e < d; ++e) {
        const double hi = q[e] * static_cast<double>(value_of(kv_.type, sketch_[b], at + e));
        const double lo = q[e] * static_cast<double>(value_of(kv_.type, sketch_[b], at + d + e));
        expected += std::max(hi, lo);
        size += std::abs(hi) + std::abs(lo);
      }
      ASSERT_NEAR(scores(row, g)[i], expected, size * 2e-6) << "candidate " << i << " of " << n;
    }
  }

  void expect_splits(int row, int g, int n) const {
    const SplitSoftmax* splits = SelectionScratch(params_).row_splits(row, g);
    for (int first = 0; first < n; first += kScoreSplit) {
      const float* begin = scores(row, g) + first;
      const float* end = scores(row, g) + std::min(n, first + kScoreSplit);
      const float highest = *std::max_element(begin, end);
      double sum = 0;
      for (const float* s = begin; s < end; ++s) {
        sum += std::exp(params_.scale * (static_cast<double>(*s) - highest));
      }
      ASSERT_EQ(splits[first / kScoreSplit].highest, highest) << first;
      ASSERT_NEAR(splits[first / kScoreSplit].sum, sum, sum * 1e-5) << first;
    }
  }

  KvGeometry kv_;
  PageMap map_;
  std::vector<int> candidates_;  // by place in the batch
  std::vector<int32_t> sequence_;
  std::vector<int64_t> tokens_;
  std::vector<SequenceLayer> layers_;
  std::vector<std::vector<uint16_t>> sketch_;  // by place in the batch
  std::vector<float> q_;
  std::vector<RowMode> mode_;
  SelectParams params_;
  std::vector<float> memory_;
};

TEST(ScorePages, EqualPlainLoops) {
  for (const KvGeometry& kv : geometries()) {
    SCOPED_TRACE(name_of(kv));
    // None, as many as are selected, one more, and around a split.
    ScoreCase c(kv, {-2, 3, 4, 63, 64, 65, 150}, Pooling::kMeanSoftmax, 1);
    c.run();
    ASSERT_NO_FATAL_FAILURE(c.expect_rows());
  }
}

TEST(ScorePages, LeaveOtherRowsAlone) {
  ScoreCase c({3, 2, 128, 32, KvType::kBF16}, {70, 20, 129}, Pooling::kMaxScore, 0);
  c.set_mode(0, RowMode::kDense);
  c.set_mode(4, RowMode::kCorrected);
  c.set_mode(8, RowMode::kCorrected);
  c.run();
  c.expect_rows();
}

TEST(ScorePages, DoNotDependOnTheBatch) {
  for (const int dim : {64, 80, 128, 256}) {
    const KvGeometry kv{2, 4, dim, 32, KvType::kF16};
    ScoreCase all(kv, {40, 333, 90}, Pooling::kMeanSoftmax, 0);
    all.run();
    for (const int row : {2, 3}) {
      ScoreCase one({1, 4, dim, 32, KvType::kF16}, {333}, Pooling::kMeanSoftmax, 0);
      one.take_row(all, row);
      one.run();
      for (int g = 0; g < kv.group; ++g) {
        ASSERT_EQ(std::memcmp(one.scores(0, g), all.scores(row, g), 333 * sizeof(float)), 0)
            << "row " << row << " head " << g;
      }
    }
  }
}

TEST(ScorePages, EmptyBatch) {
  SelectParams params;
  params.kv = {8, 4, 128, 32, KvType::kBF16};
  params.max_candidates = 100;
  EXPECT_NO_THROW(score_pages(params, nullptr));
  params.map.selected = params.map.resident = 4;
  EXPECT_NO_THROW(choose_pages(params, nullptr));
  EXPECT_EQ(select_scratch(params.kv, 0, 100), 0u);
}

}  // namespace
}  // namespace freekv::cuda
