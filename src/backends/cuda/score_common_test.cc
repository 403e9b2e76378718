// The exact mass of sink and window on the device against the reference backend.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
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

// A batch of sequences of the given lengths T, in budgeted layers; keys past T are NaN.
class CommonScores {
 public:
  CommonScores(const KvGeometry& kv, int sink, std::vector<int64_t> lengths)
      : kv_(kv), lengths_(std::move(lengths)) {
    map_.page = kv.page;
    map_.sink = sink;
    map_.window = 2;
    map_.selected = 2;
    map_.resident = 3;
    map_.budget = int64_t{kv.page} * (sink + 4);
    params_.kv = kv;
    params_.map = map_;
    params_.query_scale = 1 / std::sqrt(static_cast<float>(kv.head_dim));
    params_.which = RowMode::kCorrected;
    params_.max_candidates = 40;
    params_.mass = true;
    q_ = cases::random_floats(rows() * kv.group * kv.head_dim, 3, 2.0f);
    mode_.assign(static_cast<size_t>(rows()), RowMode::kCorrected);
    for (size_t b = 0; b < lengths_.size(); ++b) {
      sequence_.push_back(static_cast<int32_t>(b));
      tokens_.push_back(lengths_[b] - 1);
      pools_.push_back(make_pool(b));
    }
  }

  int64_t rows() const { return static_cast<int64_t>(lengths_.size()) * kv_.kv_heads; }
  void set_mode(int row, RowMode mode) { mode_[static_cast<size_t>(row)] = mode; }

  void run() {
    std::vector<DeviceBuffer> pools;
    std::vector<SequenceLayer> layers(lengths_.size());
    for (size_t b = 0; b < layers.size(); ++b) {
      pools.push_back(to_device(pools_[b]));
      layers[b].budgeted = true;
      layers[b].fast = pools.back().data();
    }
    const auto n = static_cast<int32_t>(lengths_.size());
    const size_t bytes = select_scratch(kv_, n, params_.max_candidates, map_.sink + map_.ring());
    const DeviceBuffer scratch = to_device(std::vector<float>(bytes / sizeof(float), kNaN));
    const DeviceBuffer sequence = to_device(sequence_), tokens = to_device(tokens_),
                       table = to_device(layers), q = to_device(q_), mode = to_device(mode_);
    params_.batch = {n, 1, sequence.as<int32_t>(), tokens.as<int64_t>(), table.as<SequenceLayer>()};
    params_.q = q.as<float>();
    params_.mode = mode.as<RowMode>();
    params_.scratch = scratch.data();
    const Stream stream;
    score_common_pages(params_, stream);
    stream.synchronize();
    memory_ = to_host<float>(scratch);
    params_.scratch = memory_.data();
  }

  void expect_rows() {
    const SelectionScratch scratch(params_);
    for (int row = 0; row < rows(); ++row) {
      const auto b = static_cast<size_t>(row / kv_.kv_heads);
      const int32_t count = map_.common_count(lengths_[b]);
      ASSERT_LE(count, scratch.common_pages);
      for (int g = 0; g < kv_.group; ++g) {
        for (int32_t i = 0; i < scratch.common_pages; ++i) {
          const SplitSoftmax& part = scratch.row_common(row, g)[i];
          if (i >= count || mode_[static_cast<size_t>(row)] != params_.which) {
            ASSERT_TRUE(std::isnan(part.highest)) << "row " << row << " page " << i;
            continue;
          }
          const float expected = mass_of(row, g, b, map_.common_page(lengths_[b], i));
          ASSERT_NEAR(part.highest + std::log(part.sum), expected, 1e-5)
              << "row " << row << " head " << g << " page " << i << " of " << count;
          ASSERT_GE(part.sum, 1 - 1e-6f);
        }
      }
    }
  }

 private:
  std::vector<uint16_t> make_pool(size_t b) const {
    const int64_t values = map_.budget_slots() * kv_.slot();
    const std::vector<float> floats = cases::random_floats(values, static_cast<uint32_t>(b) + 31);
    std::vector<uint16_t> pool(floats.size());
    for (size_t i = 0; i < pool.size(); ++i) {
      store_element(dtype_of(kv_.type), reinterpret_cast<std::byte*>(pool.data()),
                    static_cast<int64_t>(i), floats[i]);
    }
    const int64_t in_last = (lengths_[b] - 1) % kv_.page + 1;
    const int32_t last = map_.common_slot(map_.pages(lengths_[b]) - 1);
    for (int64_t token = in_last; token < kv_.page; ++token) {
      std::fill_n(pool.begin() + kv_.fast_key(last, static_cast<int>(token), 0),
                  kv_.fast_token_stride(), 0xffff);
    }
    return pool;
  }

  float mass_of(int row, int g, size_t b, int32_t page) {
    const KvPool pool{reinterpret_cast<std::byte*>(pools_[b].data()),
                      {kv_.kv_heads, kv_.head_dim, kv_.page, dtype_of(kv_.type)},
                      KvLayout::kNHD,
                      map_.budget_slots()};
    const int32_t slot = map_.common_slot(page);
    const int64_t tokens = std::min<int64_t>(kv_.page, lengths_[b] - int64_t{page} * kv_.page);
    float mass = kNaN;
    const float* q = q_.data() + (int64_t{row} * kv_.group + g) * kv_.head_dim;
    reference::score_exact_pages(
        View<const float, 2>(q, 1, kv_.head_dim),
        {pool, row % kv_.kv_heads, std::span(&slot, 1), static_cast<int>(tokens)},
        params_.query_scale, View<float, 2>(&mass, 1, 1));
    return mass;
  }

  KvGeometry kv_;
  PageMap map_;
  std::vector<int64_t> lengths_;
  std::vector<int32_t> sequence_;
  std::vector<int64_t> tokens_;
  std::vector<std::vector<uint16_t>> pools_;
  std::vector<float> q_;
  std::vector<RowMode> mode_;
  SelectParams params_;
  std::vector<float> memory_;
};

TEST(ScoreCommon, AgreesWithTheReference) {
  constexpr int kGroups[] = {1, 3, 4, 7, 16};
  int at = 0;
  for (const KvType type : {KvType::kBF16, KvType::kF16}) {
    for (const int dim : {64, 80, 96, 128, 256}) {
      for (const int page : {16, 32, 64}) {
        const KvGeometry kv{1 + at % 3, kGroups[at % 5], dim, page, type};
        SCOPED_TRACE(name_of(kv));
        const int sink = at++ % 3;
        const int64_t p = page, budget = p * (sink + 4);
        // Around the budget, and where the ring of the window has come round.
        CommonScores c(
            kv, sink, {budget + 1, budget + p - 1, budget + p, budget + p + 1, budget + 7 * p + 5});
        c.run();
        ASSERT_NO_FATAL_FAILURE(c.expect_rows());
      }
    }
  }
}

TEST(ScoreCommon, LeavesOtherRowsAlone) {
  CommonScores c({3, 2, 128, 32, KvType::kBF16}, 2, {230, 300});
  c.set_mode(1, RowMode::kDense);
  c.set_mode(5, RowMode::kSpeculative);
  c.run();
  c.expect_rows();
}

TEST(ScoreCommon, EmptyBatchAndWrongPage) {
  SelectParams params;
  params.kv = {8, 4, 128, 32, KvType::kBF16};
  params.map.page = 32;
  params.mass = true;
  EXPECT_NO_THROW(score_common_pages(params, nullptr));
  params.batch.n = 1;
  params.map.page = 16;
  EXPECT_THROW(score_common_pages(params, nullptr), Error);
}

}  // namespace
}  // namespace freekv::cuda
