// key2 on the device against the reference backend: the bytes of sketches, and scores.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"
#include "backends/cuda/test_arrays.hpp"
#include "backends/op_cases.hpp"
#include "backends/reference/selection.hpp"
#include "core/dtype.hpp"
#include "device/cuda/runtime.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Every head dimension with every page, in both types; groups of 1 to 16.
std::vector<KvGeometry> geometries() {
  std::vector<KvGeometry> all;
  constexpr int kGroups[] = {1, 3, 4, 5, 7, 8, 16};
  for (const KvType type : {KvType::kBF16, KvType::kF16}) {
    for (const int dim : {64, 80, 96, 128, 256}) {
      for (const int page : {16, 32, 64}) {
        const auto at = all.size();
        all.push_back(
            {1 + static_cast<int>(at % 3), kGroups[at % std::size(kGroups)], dim, page, type});
      }
    }
  }
  return all;
}

Key2SketchView view_of(const KvGeometry& kv, std::vector<std::byte>& bytes) {
  return {bytes.data(), dtype_of(kv.type), kv.head_dim, kv.page};
}

KvShape shape_of(const KvGeometry& kv) {
  return {kv.kv_heads, kv.head_dim, kv.page, dtype_of(kv.type)};
}

std::vector<uint16_t> random_kv(const KvGeometry& kv, int64_t count, uint32_t seed) {
  const std::vector<float> values = cases::random_floats(count, seed);
  std::vector<uint16_t> stored(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    store_element(dtype_of(kv.type), reinterpret_cast<std::byte*>(stored.data()),
                  static_cast<int64_t>(i), values[i]);
  }
  return stored;
}

// --- sketches ------------------------------------------------------------------------------------

enum class From { kFast, kSlow, kKeys };

constexpr int kMaxPages = 5;

// Keys with a channel of one value, one of zeros of both signs and one of large ones, which are
// where steps and ranges come to their ends.
std::vector<uint16_t> keys_with_edges(const KvGeometry& kv) {
  std::vector<uint16_t> values = random_kv(kv, kMaxPages * kv.slot(), 11);
  const auto put = [&](size_t i, float value) {
    store_element(dtype_of(kv.type), reinterpret_cast<std::byte*>(values.data()),
                  static_cast<int64_t>(i), value);
  };
  const auto d = static_cast<size_t>(kv.head_dim);
  for (size_t row = 0; row * d < values.size(); ++row) {
    put(row * d + 3, 0.75f);
    put(row * d + 17, row % 3 == 0 ? 0.0f : -0.0f);
    put(row * d + d - 1, row % 2 == 0 ? 6e4f : -6e4f);
  }
  return values;
}

// [tokens][M][stride] of the fast tier's keys, NaN between them.
std::vector<uint16_t> keys_in_order(const KvGeometry& kv, const std::vector<uint16_t>& fast,
                                    int stride) {
  std::vector<uint16_t> keys;
  for (int page = 0; page < kMaxPages; ++page) {
    for (int t = 0; t < kv.page; ++t) {
      for (int head = 0; head < kv.kv_heads; ++head) {
        const auto at = fast.begin() + kv.fast_key(page, t, head);
        keys.insert(keys.end(), at, at + kv.head_dim);
        keys.resize(keys.size() + static_cast<size_t>(stride - kv.head_dim), 0xffff);
      }
    }
  }
  return keys;
}

std::string first_difference(const Key2SketchView& view, const std::byte* actual, int64_t page) {
  const std::byte* expected = view.lo(page);
  const size_t row = row_bytes(view.dtype, view.head_dim);
  for (size_t i = 0; i < view.page_bytes(); ++i) {
    if (actual[i] == expected[i]) continue;
    std::string where =
        "levels of group " + std::to_string((i - 2 * row) / 4 / static_cast<size_t>(view.page)) +
        " token " + std::to_string((i - 2 * row) / 4 % static_cast<size_t>(view.page));
    if (i < 2 * row)
      where = (i < row ? "lo of channel " : "step of channel ") + std::to_string(i % row / 2);
    return where + ", byte " + std::to_string(i) + ": " +
           std::to_string(std::to_integer<int>(actual[i])) + ", " +
           std::to_string(std::to_integer<int>(expected[i])) + " was expected";
  }
  return "";
}

void check_sketches(const KvGeometry& kv, From from, int first, int count) {
  std::vector<uint16_t> values = keys_with_edges(kv);
  const int stride = kv.head_dim + 16;
  const auto page_bytes = static_cast<size_t>(kv.sketch_bytes(SketchKind::kKey2));
  const std::vector<std::byte> poison(static_cast<size_t>(kv.kv_heads) * kMaxPages * page_bytes,
                                      std::byte{0xff});
  const DeviceBuffer sketch = to_device(poison);
  PinnedBuffer slow(from == From::kSlow ? values.size() * 2 : 0, 1);
  DeviceBuffer fast, keys;
  if (from == From::kSlow) std::memcpy(slow.data(), values.data(), values.size() * 2);
  if (from == From::kFast) fast = to_device(values);
  if (from == From::kKeys) keys = to_device(keys_in_order(kv, values, stride));
  SketchPagesParams params;
  params.kv = kv;
  params.layer.budgeted = from == From::kSlow;
  params.layer.max_pages = kMaxPages;
  params.layer.fast = fast.data();
  params.layer.slow = slow.device();
  params.layer.sketch = sketch.data();
  params.layer.sketch_kind = SketchKind::kKey2;
  params.first = first;
  params.count = count;
  if (from == From::kKeys) {
    params.keys = keys.data();
    params.key_stride = stride;
  }
  const Stream stream;
  sketch_pages(params, stream);
  stream.synchronize();

  const auto actual = to_host<std::byte>(sketch);
  const KvPool pool{reinterpret_cast<std::byte*>(values.data()), shape_of(kv),
                    from == From::kSlow ? KvLayout::kHND : KvLayout::kNHD, kMaxPages};
  for (int head = 0; head < kv.kv_heads; ++head) {
    std::vector<std::byte> expected(kMaxPages * page_bytes, std::byte{0xff});
    const Key2SketchView view = view_of(kv, expected);
    ASSERT_EQ(view.page_bytes(), page_bytes);
    for (int page = first; page < first + count; ++page) {
      reference::build_key2_sketch(pool, page, head, view, page);
    }
    for (int page = 0; page < kMaxPages; ++page) {
      const std::byte* of_page =
          actual.data() + static_cast<size_t>(head * kMaxPages + page) * page_bytes;
      ASSERT_EQ(first_difference(view, of_page, page), "") << "page " << page << " head " << head;
    }
  }
}

TEST(Key2, SketchesHaveTheReferencesBytes) {
  for (const KvGeometry& kv : geometries()) {
    for (const From from : {From::kFast, From::kSlow, From::kKeys}) {
      SCOPED_TRACE(name_of(kv) + " from " + std::to_string(static_cast<int>(from)));
      ASSERT_NO_FATAL_FAILURE(check_sketches(kv, from, 0, kMaxPages));
      ASSERT_NO_FATAL_FAILURE(check_sketches(kv, from, 2, 1));
      ASSERT_NO_FATAL_FAILURE(check_sketches(kv, from, 2, 0));
    }
  }
}

// --- scores --------------------------------------------------------------------------------------

constexpr int kSelected = 3;

// One layer of a batch whose sequences have the given candidates.
class Key2Scores {
 public:
  Key2Scores(const KvGeometry& kv, std::vector<int> candidates, float size = 1)
      : kv_(kv), candidates_(std::move(candidates)) {
    map_.page = kv.page;
    map_.sink = 1;
    map_.window = 2;
    map_.selected = map_.resident = kSelected;
    map_.budget = int64_t{kv.page} * (map_.sink + map_.window + kSelected);
    const auto n = static_cast<int32_t>(candidates_.size());
    for (int32_t b = 0; b < n; ++b) {
      sequence_.push_back(b);
      const int64_t total = int64_t{kv.page} * (map_.window + map_.sink + candidates_[at(b)]);
      tokens_.push_back(total - 1);
      sketches_.push_back(build(b));
    }
    q_ = cases::random_floats(rows() * kv.group * kv.head_dim, 5, size);
    params_.kv = kv;
    params_.map = map_;
    params_.query_scale = 1 / std::sqrt(static_cast<float>(kv.head_dim));
    params_.sketch = SketchKind::kKey2;
    params_.which = RowMode::kCorrected;
    params_.max_candidates =
        std::max(1, *std::max_element(candidates_.begin(), candidates_.end())) + 70;
  }

  int64_t rows() const { return static_cast<int64_t>(candidates_.size()) * kv_.kv_heads; }

  void run() {
    std::vector<DeviceBuffer> buffers;
    std::vector<SequenceLayer> layers(candidates_.size());
    for (size_t b = 0; b < layers.size(); ++b) {
      buffers.push_back(to_device(sketches_[b]));
      layers[b].max_pages = max_pages(b);
      layers[b].sketch = buffers.back().data();
      layers[b].sketch_kind = SketchKind::kKey2;
    }
    const auto n = static_cast<int32_t>(candidates_.size());
    const size_t bytes = select_scratch(kv_, n, params_.max_candidates);
    const DeviceBuffer scratch = to_device(std::vector<float>(bytes / sizeof(float), kNaN));
    const DeviceBuffer sequence = to_device(sequence_), tokens = to_device(tokens_),
                       table = to_device(layers), q = to_device(q_);
    const DeviceBuffer mode =
        to_device(std::vector<RowMode>(static_cast<size_t>(rows()), RowMode::kCorrected));
    params_.batch = {n, 1, sequence.as<int32_t>(), tokens.as<int64_t>(), table.as<SequenceLayer>()};
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

  void expect_rows() {
    for (int row = 0; row < rows(); ++row) {
      const size_t b = at(row / kv_.kv_heads);
      const int n = candidates_[b];
      if (n <= kSelected) {
        for (int g = 0; g < kv_.group; ++g) ASSERT_TRUE(std::isnan(scores(row, g)[0]));
        continue;
      }
      ASSERT_NO_FATAL_FAILURE(expect_row(row, b, n)) << "row " << row;
    }
  }

 private:
  static size_t at(int b) { return static_cast<size_t>(b); }
  int32_t max_pages(size_t b) const { return map_.sink + std::max(candidates_[b], 0) + 5; }
  size_t page_bytes() const { return static_cast<size_t>(kv_.sketch_bytes(SketchKind::kKey2)); }

  // [M][max_pages]: the reference's sketches of random keys.
  std::vector<std::byte> build(int b) {
    const int32_t pages = max_pages(at(b));
    std::vector<uint16_t> values =
        random_kv(kv_, pages * kv_.slot(), static_cast<uint32_t>(b) + 21);
    const KvPool pool{reinterpret_cast<std::byte*>(values.data()), shape_of(kv_), KvLayout::kHND,
                      pages};
    std::vector<std::byte> all;
    for (int head = 0; head < kv_.kv_heads; ++head) {
      std::vector<std::byte> bytes(static_cast<size_t>(pages) * page_bytes());
      for (int32_t page = 0; page < pages; ++page) {
        reference::build_key2_sketch(pool, page, head, view_of(kv_, bytes), page);
      }
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    return all;
  }

  void expect_row(int row, size_t b, int n) {
    const int d = kv_.head_dim, head = row % kv_.kv_heads;
    std::vector<std::byte> bytes(static_cast<size_t>(max_pages(b)) * page_bytes());
    std::copy_n(sketches_[b].begin() + static_cast<ptrdiff_t>(at(head) * bytes.size()),
                bytes.size(), bytes.begin());
    std::vector<int32_t> pages(static_cast<size_t>(n));
    std::iota(pages.begin(), pages.end(), map_.sink);
    std::vector<float> expected(static_cast<size_t>(kv_.group * n));
    reference::score_key2_pages(
        View<const float, 2>(q_.data() + int64_t{row} * kv_.group * d, kv_.group, d),
        view_of(kv_, bytes), params_.query_scale, pages,
        View<float, 2>(expected.data(), kv_.group, n));
    for (int g = 0; g < kv_.group; ++g) {
      const float* wanted = expected.data() + int64_t{g} * n;
      float size = 1;
      for (int i = 0; i < n; ++i) size = std::max(size, std::abs(wanted[i]));
      for (int i = 0; i < n; ++i) {
        ASSERT_NEAR(scores(row, g)[i], wanted[i], size * 6e-6)
            << "head " << g << " candidate " << i << " of " << n;
      }
      ASSERT_NO_FATAL_FAILURE(expect_splits(row, g, n));
    }
  }

  void expect_splits(int row, int g, int n) const {
    const SplitSoftmax* splits = SelectionScratch(params_).row_splits(row, g);
    for (int first = 0; first < n; first += kScoreSplit) {
      const float* begin = scores(row, g) + first;
      const float* end = scores(row, g) + std::min(n, first + kScoreSplit);
      const float highest = *std::max_element(begin, end);
      double sum = 0;
      for (const float* s = begin; s < end; ++s) sum += std::exp(double{*s} - highest);
      ASSERT_EQ(splits[first / kScoreSplit].highest, highest) << first;
      ASSERT_NEAR(splits[first / kScoreSplit].sum, sum, sum * 1e-5) << first;
    }
  }

  KvGeometry kv_;
  PageMap map_;
  std::vector<int> candidates_;
  std::vector<int32_t> sequence_;
  std::vector<int64_t> tokens_;
  std::vector<std::vector<std::byte>> sketches_;
  std::vector<float> q_;
  SelectParams params_;
  std::vector<float> memory_;
};

TEST(Key2, ScoresAgreeWithTheReference) {
  for (const KvGeometry& kv : geometries()) {
    SCOPED_TRACE(name_of(kv));
    // None, as many as are selected, one more, and around a split.
    Key2Scores c(kv, {0, 3, 4, 63, 64, 65});
    c.run();
    ASSERT_NO_FATAL_FAILURE(c.expect_rows());
  }
}

// Weights are whole numbers all the same, and zero where the products are too small for them.
TEST(Key2, ScoresOfLargeAndOfNoQueries) {
  for (const float size : {0.0f, 1e-32f, 50.0f}) {
    Key2Scores c({2, 4, 128, 32, KvType::kBF16}, {40, 130}, size);
    c.run();
    ASSERT_NO_FATAL_FAILURE(c.expect_rows()) << size;
  }
}

TEST(Key2, RefusesAPageOfNoKernel) {
  SelectParams params;
  params.batch.n = 1;
  params.kv = {1, 1, 64, 8, KvType::kBF16};
  params.sketch = SketchKind::kKey2;
  params.max_candidates = 9;
  EXPECT_THROW(score_pages(params, nullptr), Error);
}

}  // namespace
}  // namespace freekv::cuda
