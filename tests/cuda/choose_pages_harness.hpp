// What the tests of choose_pages() run on: sequences whose tables are kept on the device by the
// kernel and on the CPU by the reference backend and PageTable, step by step.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"
#include "backends/cuda/test_arrays.hpp"
#include "backends/reference/selection.hpp"
#include "device/cuda/runtime.hpp"
#include "kvcache/page_table.hpp"

namespace freekv::cuda {

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr int kLayer = 1, kLayers = 2;

enum class Scores {
  kRandom,
  kFew,   // small integers, zeros of both signs: many ties, sums without rounding
  kOdd,   // few, with NaN and infinities
  kFlat,  // all equal
};

struct World {
  int heads = 2;
  int group = 4;
  int k = 8;
  int resident = 8;
  int max_candidates = 200;
  Pooling pooling = Pooling::kMeanSoftmax;
  float churn = -1;

  std::string name() const {
    return "M=" + std::to_string(heads) + " G=" + std::to_string(group) +
           " k=" + std::to_string(k) + " resident=" + std::to_string(resident) +
           " n<=" + std::to_string(max_candidates) +
           " pooling=" + std::to_string(static_cast<int>(pooling));
  }
};

// One sequence on both sides.
struct Sequence {
  bool budgeted = true;
  DeviceBuffer slot_of_page, page_in_slot, last_use, clock, selected, selected_count;
  PageTable table;
  std::vector<uint32_t> uses;  // [M][resident]: PageTable keeps its own to itself
  std::vector<uint32_t> clocks;
  std::vector<std::vector<int32_t>> pages;  // [M]
};

struct Step {
  int ahead = 0;
  RowMode which = RowMode::kCorrected;
  std::vector<int> candidates;  // by sequence
  std::vector<RowMode> mode;    // by row
  Scores scores = Scores::kRandom;
};

// Two budgeted sequences and one that holds everything; the batch has them in reverse.
class ChoosePagesHarness {
 public:
  explicit ChoosePagesHarness(const World& world) : world_(world), random_(7) {
    map_.page = 16;
    map_.sink = 2;
    map_.window = 3;
    map_.selected = world.k;
    map_.resident = world.resident;
    max_pages_ = map_.sink + world.max_candidates + 5;
    sequences_.resize(kSequences);
    std::vector<SequenceLayer> layers(kSequences * kLayers);
    for (size_t s = 0; s < kSequences; ++s) {
      layers[s * kLayers + kLayer] = make_sequence(sequences_[s], s != 1);
    }
    layers_ = to_device(layers);
    sequence_ = to_device(std::vector<int32_t>{2, 1, 0});
    tokens_ = device_array<int64_t>(kSequences);
    mode_ = device_array<RowMode>(rows());
    moves_ = device_array<Move>(rows() * k());
    move_count_ = device_array<int32_t>(rows());
    counters_ = to_device(std::vector<RowCounters>(rows()));
    expected_counters_.resize(rows());
    const KvGeometry kv{world.heads, world.group, 128, 16, KvType::kBF16};
    scratch_ = DeviceBuffer(select_scratch(kv, kSequences, world.max_candidates));
    params_.batch = {kSequences, kLayers, sequence_.as<int32_t>(), tokens_.as<int64_t>(),
                     layers_.as<SequenceLayer>()};
    params_.kv = kv;
    params_.map = map_;
    params_.layer = kLayer;
    params_.scale = 0.25f;
    params_.mode = mode_.as<RowMode>();
    params_.pooling = world.pooling;
    params_.max_candidates = world.max_candidates;
    params_.forced_churn = world.churn;
    params_.moves = moves_.as<Move>();
    params_.move_count = move_count_.as<int32_t>();
    params_.counters = counters_.as<RowCounters>();
  }

  static constexpr int kSequences = 3;
  size_t rows() const { return static_cast<size_t>(kSequences * world_.heads); }
  size_t k() const { return static_cast<size_t>(world_.k); }
  std::mt19937& random() { return random_; }
  int roll(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  Sequence& sequence_of(size_t row) {
    return sequences_[kSequences - 1 - row / static_cast<size_t>(world_.heads)];
  }

  /// Runs the step on the device, then does it on the CPU and compares everything.
  void check(const Step& step) {
    launch(step);
    const auto counts = to_host<int32_t>(move_count_);
    const auto moves = to_host<Move>(moves_);
    for (size_t row = 0; row < rows(); ++row) {
      SCOPED_TRACE("row " + std::to_string(row));
      if (step.mode[row] != step.which) {
        ASSERT_EQ(counts[row], 0);
        continue;
      }
      ASSERT_NO_FATAL_FAILURE(expect_row(step, row, counts[row], &moves[row * k()]));
    }
    for (size_t s = 0; s < kSequences; ++s) {
      SCOPED_TRACE("sequence " + std::to_string(s));
      ASSERT_NO_FATAL_FAILURE(expect_tables(sequences_[s]));
    }
    expect_counters();
  }

  void launch(const Step& step) {
    std::vector<int64_t> tokens;
    for (const int n : step.candidates) {  // T - 1, somewhere within a page
      const int64_t total = int64_t{16} * (map_.sink + map_.window + n) + roll(16);
      tokens.push_back(total - step.ahead - 1);
    }
    copy_to_device(tokens, tokens_.data());
    copy_to_device(step.mode, mode_.data());
    copy_to_device(std::vector<Move>(rows() * k(), Move{-7, -7}), moves_.data());
    copy_to_device(std::vector<int32_t>(rows(), -7), move_count_.data());
    fill_scratch(step);
    params_.which = step.which;
    params_.ahead = step.ahead;
    params_.scratch = scratch_.data();
    const Stream stream;
    choose_pages(params_, stream);
    stream.synchronize();
  }

  std::vector<int32_t> selected(size_t row) {
    const Sequence& sequence = sequence_of(row);
    const auto head = row % static_cast<size_t>(world_.heads);
    const auto all = to_host<int32_t>(sequence.selected);
    const auto count = static_cast<size_t>(to_host<int32_t>(sequence.selected_count)[head]);
    return {all.begin() + static_cast<ptrdiff_t>(head * k()),
            all.begin() + static_cast<ptrdiff_t>(head * k() + count)};
  }
  int32_t sink() const { return map_.sink; }

 private:
  SequenceLayer make_sequence(Sequence& sequence, bool budgeted) {
    const auto heads = static_cast<size_t>(world_.heads);
    const auto slots = heads * static_cast<size_t>(world_.resident);
    sequence.budgeted = budgeted;
    sequence.selected = to_device(std::vector<int32_t>(heads * k(), -1));
    sequence.selected_count = device_array<int32_t>(heads);
    sequence.pages.resize(heads);
    SequenceLayer layer;
    layer.budgeted = budgeted;
    layer.retrieves = true;
    layer.max_pages = max_pages_;
    layer.selected = sequence.selected.as<int32_t>();
    layer.selected_count = sequence.selected_count.as<int32_t>();
    if (!budgeted) return layer;
    sequence.table = PageTable(world_.heads, world_.resident, max_pages_);
    sequence.uses.assign(slots, 0);
    sequence.clocks.assign(heads, 0);
    // One sequence comes from within the budget, the other from a longer prompt.
    if (&sequence == sequences_.data()) sequence.table.assign_all(map_.sink, world_.k);
    sequence.slot_of_page = to_device(slots_of_pages(sequence));
    sequence.page_in_slot = to_device(pages_in_slots(sequence));
    sequence.last_use = device_array<uint32_t>(slots);
    sequence.clock = device_array<uint32_t>(heads);
    layer.slot_of_page = sequence.slot_of_page.as<int32_t>();
    layer.page_in_slot = sequence.page_in_slot.as<int32_t>();
    layer.last_use = sequence.last_use.as<uint32_t>();
    layer.clock = sequence.clock.as<uint32_t>();
    return layer;
  }

  std::vector<int32_t> slots_of_pages(const Sequence& sequence) const {
    std::vector<int32_t> all;
    for (int head = 0; head < world_.heads; ++head) {
      for (int32_t page = 0; page < max_pages_; ++page) {
        all.push_back(sequence.table.slot_of(head, page));
      }
    }
    return all;
  }
  std::vector<int32_t> pages_in_slots(const Sequence& sequence) const {
    std::vector<int32_t> all;
    for (int head = 0; head < world_.heads; ++head) {
      for (int32_t slot = 0; slot < world_.resident; ++slot) {
        all.push_back(sequence.table.page_in(head, slot));
      }
    }
    return all;
  }

  float score(Scores kind) {
    constexpr float kOddScores[] = {kNaN, -kInfinity, kInfinity};
    switch (kind) {
      case Scores::kRandom:
        return static_cast<float>(random_()) * 0x1p-28f - 8.0f;
      case Scores::kOdd:
        if (roll(5) == 0) return kOddScores[roll(3)];
        [[fallthrough]];
      case Scores::kFew:
        return (static_cast<float>(roll(7)) - 3.0f) * (roll(2) == 0 ? 1.0f : -1.0f);
      case Scores::kFlat:
        return 1.5f;
    }
    return 0;
  }

  // What score_pages would leave, NaN elsewhere.
  void fill_scratch(const Step& step) {
    scores_.assign(scratch_.bytes() / sizeof(float), kNaN);
    params_.scratch = scores_.data();
    const SelectionScratch scratch(params_);
    for (size_t row = 0; row < rows(); ++row) {
      const int n = step.candidates[kSequences - 1 - row / static_cast<size_t>(world_.heads)];
      for (int g = 0; g < world_.group; ++g) {
        float* scores = scratch.row_scores(static_cast<int>(row), g);
        for (int i = 0; i < n; ++i) scores[i] = score(step.scores);
        for (int first = 0; first < n; first += kScoreSplit) {
          scratch.row_splits(static_cast<int>(row), g)[first / kScoreSplit] =
              split_softmax(scores + first, std::min(kScoreSplit, n - first));
        }
      }
    }
    copy_to_device(scores_, scratch_.data());
  }

  SplitSoftmax split_softmax(const float* scores, int n) const {
    float highest = -kInfinity;
    for (int i = 0; i < n; ++i) highest = std::fmax(highest, scores[i]);
    const float base = highest == -kInfinity ? 0.0f : highest;
    float sum = 0;
    for (int i = 0; i < n; ++i) sum += std::exp2((scores[i] - base) * params_.scale * kLog2E);
    return {highest, sum};
  }

  // The reference's selection. Softmaxes differ from the reference's in the last bits, so there the
  // device's own pooled values, held against the reference's, are what is chosen from.
  std::vector<int32_t> expected_pages(size_t row, int n) {
    if (n <= world_.k) {
      std::vector<int32_t> all(static_cast<size_t>(std::max(n, 0)));
      std::iota(all.begin(), all.end(), map_.sink);
      return all;
    }
    params_.scratch = scores_.data();
    std::vector<float> scores;
    for (int g = 0; g < world_.group; ++g) {
      const float* of_head = SelectionScratch(params_).row_scores(static_cast<int>(row), g);
      scores.insert(scores.end(), of_head, of_head + n);
    }
    std::vector<float> pooled(static_cast<size_t>(n));
    reference::pool_scores(static_cast<Pooling>(world_.pooling), params_.scale,
                           View<float, 2>(scores.data(), world_.group, n),
                           View<float, 1>(pooled.data(), n));
    auto memory = to_host<float>(scratch_);
    params_.scratch = memory.data();
    const float* actual = SelectionScratch(params_).row_pooled(static_cast<int>(row));
    for (int i = 0; i < n; ++i) {
      const float wanted = pooled[static_cast<size_t>(i)];
      if (!has_softmax(world_.pooling)) {
        EXPECT_TRUE(actual[i] == wanted || (std::isnan(actual[i]) && std::isnan(wanted)))
            << "candidate " << i << ": " << actual[i] << ", " << wanted << " was expected";
      } else if (std::isnan(wanted) || std::isinf(wanted)) {
        EXPECT_EQ(std::isnan(actual[i]), std::isnan(wanted)) << i;
        EXPECT_EQ(std::isinf(actual[i]), std::isinf(wanted)) << i;
      } else {
        EXPECT_NEAR(actual[i], wanted, wanted * 2e-5 + 1e-35) << "candidate " << i;
      }
    }
    if (has_softmax(world_.pooling)) std::copy_n(actual, n, pooled.begin());
    std::vector<int32_t> chosen(k());
    reference::top_k(View<const float, 1>(pooled.data(), n), chosen);
    for (int32_t& page : chosen) page += map_.sink;
    return chosen;
  }

  void expect_row(const Step& step, size_t row, int32_t count, const Move* moves) {
    Sequence& sequence = sequence_of(row);
    const auto head = static_cast<int>(row % static_cast<size_t>(world_.heads));
    const size_t s = kSequences - 1 - row / static_cast<size_t>(world_.heads);
    std::vector<int32_t>& pages = sequence.pages[static_cast<size_t>(head)];
    pages = expected_pages(row, step.candidates[s]);
    ASSERT_EQ(selected(row), pages);
    int32_t expected = 0;
    if (sequence.budgeted) {
      std::vector<PageMove> planned(pages.size());
      expected = sequence.table.plan(head, pages, planned);
      sequence.table.commit(head, pages, std::span(planned).first(static_cast<size_t>(expected)));
      ASSERT_EQ(count, expected);
      for (int32_t i = 0; i < count; ++i) {
        ASSERT_EQ(moves[i].page, planned[static_cast<size_t>(i)].page) << "move " << i;
        ASSERT_EQ(moves[i].slot, planned[static_cast<size_t>(i)].slot) << "move " << i;
      }
      const uint32_t now = ++sequence.clocks[static_cast<size_t>(head)];
      for (const int32_t page : pages) {
        sequence.uses[static_cast<size_t>(head * world_.resident +
                                          sequence.table.slot_of(head, page))] = now;
      }
    }
    ASSERT_EQ(count, expected);
    for (size_t i = static_cast<size_t>(count); i < k(); ++i) {
      ASSERT_EQ(moves[i].page, -7) << "move " << i << " of " << count << " was written";
    }
    RowCounters& counters =
        expected_counters_[s * static_cast<size_t>(world_.heads) + static_cast<size_t>(head)];
    counters.selections += 1;
    counters.pages_selected += pages.size();
    (step.ahead == 0 ? counters.misses_before : counters.misses_after) +=
        static_cast<unsigned long long>(count);
  }

  void expect_tables(const Sequence& sequence) {
    const auto counts = to_host<int32_t>(sequence.selected_count);
    for (size_t head = 0; head < counts.size(); ++head) {
      ASSERT_EQ(static_cast<size_t>(counts[head]), sequence.pages[head].size());
    }
    if (!sequence.budgeted) return;
    ASSERT_EQ(to_host<int32_t>(sequence.slot_of_page), slots_of_pages(sequence));
    ASSERT_EQ(to_host<int32_t>(sequence.page_in_slot), pages_in_slots(sequence));
    ASSERT_EQ(to_host<uint32_t>(sequence.last_use), sequence.uses);
    ASSERT_EQ(to_host<uint32_t>(sequence.clock), sequence.clocks);
  }

  void expect_counters() {
    const auto actual = to_host<RowCounters>(counters_);
    ASSERT_EQ(
        std::memcmp(actual.data(), expected_counters_.data(), actual.size() * sizeof(RowCounters)),
        0);
  }

  World world_;
  PageMap map_;
  std::mt19937 random_;
  int32_t max_pages_ = 0;
  std::vector<Sequence> sequences_;
  DeviceBuffer layers_, sequence_, tokens_, mode_, moves_, move_count_, counters_, scratch_;
  std::vector<float> scores_;  // the scratch as it was before the launch
  std::vector<RowCounters> expected_counters_;
  SelectParams params_;
};

inline Step random_step(ChoosePagesHarness& harness, const World& world,
                        std::vector<int> candidates) {
  Step step;
  step.ahead = harness.roll(2);
  step.which = step.ahead == 0 ? RowMode::kCorrected : RowMode::kSpeculative;
  step.candidates = std::move(candidates);
  // Integers pool without rounding, so that there the choice equals the reference's to the page.
  const bool mean_score = world.pooling == Pooling::kMeanScore;
  constexpr Scores kKinds[] = {Scores::kFew, Scores::kOdd, Scores::kFlat, Scores::kRandom};
  step.scores = kKinds[harness.roll(mean_score ? 3 : 4)];
  for (size_t row = 0; row < harness.rows(); ++row) {
    step.mode.push_back(harness.roll(4) != 0 ? step.which : static_cast<RowMode>(harness.roll(3)));
  }
  return step;
}

}  // namespace freekv::cuda
