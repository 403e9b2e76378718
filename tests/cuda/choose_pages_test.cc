// The device's choice of pages and slots against the CPU's own code: pooling and top-k of the
// reference backend, and PageTable.
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
#include "backends/reference/selection.hpp"
#include "device/cuda/runtime.hpp"
#include "kvcache/page_table.hpp"

namespace freekv::cuda {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kLayer = 1, kLayers = 2;

template <typename T>
void copy_to(const DeviceBuffer& buffer, const std::vector<T>& values) {
  check_cuda(
      cudaMemcpy(buffer.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
      "copy to the device");
}

template <typename T>
DeviceBuffer upload(const std::vector<T>& values) {
  DeviceBuffer buffer(values.size() * sizeof(T));
  copy_to(buffer, values);
  return buffer;
}

template <typename T>
std::vector<T> download(const DeviceBuffer& buffer) {
  std::vector<T> values(buffer.bytes() / sizeof(T));
  check_cuda(
      cudaMemcpy(values.data(), buffer.data(), values.size() * sizeof(T), cudaMemcpyDeviceToHost),
      "copy from the device");
  return values;
}

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
  PoolingRule pooling = PoolingRule::kMeanSoftmax;
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
class Harness {
 public:
  explicit Harness(const World& world) : world_(world), random_(7) {
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
    layers_ = upload(layers);
    sequence_ = upload(std::vector<int32_t>{2, 1, 0});
    tokens_ = device_array<int64_t>(kSequences);
    mode_ = device_array<RowMode>(rows());
    moves_ = device_array<Move>(rows() * k());
    move_count_ = device_array<int32_t>(rows());
    counters_ = upload(std::vector<RowCounters>(rows()));
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
    const auto counts = download<int32_t>(move_count_);
    const auto moves = download<Move>(moves_);
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
    copy_to(tokens_, tokens);
    copy_to(mode_, step.mode);
    copy_to(moves_, std::vector<Move>(rows() * k(), Move{-7, -7}));
    copy_to(move_count_, std::vector<int32_t>(rows(), -7));
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
    const auto all = download<int32_t>(sequence.selected);
    const auto count = static_cast<size_t>(download<int32_t>(sequence.selected_count)[head]);
    return {all.begin() + static_cast<ptrdiff_t>(head * k()),
            all.begin() + static_cast<ptrdiff_t>(head * k() + count)};
  }
  int32_t sink() const { return map_.sink; }

 private:
  SequenceLayer make_sequence(Sequence& sequence, bool budgeted) {
    const auto heads = static_cast<size_t>(world_.heads);
    const auto slots = heads * static_cast<size_t>(world_.resident);
    sequence.budgeted = budgeted;
    sequence.selected = upload(std::vector<int32_t>(heads * k(), -1));
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
    sequence.slot_of_page = upload(slots_of_pages(sequence));
    sequence.page_in_slot = upload(pages_in_slots(sequence));
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
    copy_to(scratch_, scores_);
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
    auto memory = download<float>(scratch_);
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
    const auto counts = download<int32_t>(sequence.selected_count);
    for (size_t head = 0; head < counts.size(); ++head) {
      ASSERT_EQ(static_cast<size_t>(counts[head]), sequence.pages[head].size());
    }
    if (!sequence.budgeted) return;
    ASSERT_EQ(download<int32_t>(sequence.slot_of_page), slots_of_pages(sequence));
    ASSERT_EQ(download<int32_t>(sequence.page_in_slot), pages_in_slots(sequence));
    ASSERT_EQ(download<uint32_t>(sequence.last_use), sequence.uses);
    ASSERT_EQ(download<uint32_t>(sequence.clock), sequence.clocks);
  }

  void expect_counters() {
    const auto actual = download<RowCounters>(counters_);
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

Step random_step(Harness& harness, const World& world, std::vector<int> candidates) {
  Step step;
  step.ahead = harness.roll(2);
  step.which = step.ahead == 0 ? RowMode::kCorrected : RowMode::kSpeculative;
  step.candidates = std::move(candidates);
  // Integers pool without rounding, so that there the choice equals the reference's to the page.
  const bool mean_score = world.pooling == PoolingRule::kMeanScore;
  constexpr Scores kKinds[] = {Scores::kFew, Scores::kOdd, Scores::kFlat, Scores::kRandom};
  step.scores = kKinds[harness.roll(mean_score ? 3 : 4)];
  for (size_t row = 0; row < harness.rows(); ++row) {
    step.mode.push_back(harness.roll(4) != 0 ? step.which : static_cast<RowMode>(harness.roll(3)));
  }
  return step;
}

void run_random_steps(const World& world, int steps) {
  SCOPED_TRACE(world.name());
  Harness harness(world);
  // From no candidate at all past k to as many as there may be.
  std::vector<int> candidates = {0, world.k - 1, world.k + 1};
  for (int i = 0; i < steps; ++i) {
    SCOPED_TRACE("step " + std::to_string(i));
    ASSERT_NO_FATAL_FAILURE(harness.check(random_step(harness, world, candidates)));
    ASSERT_FALSE(testing::Test::HasNonfatalFailure());
    for (int& n : candidates) n = std::min(n + harness.roll(4), world.max_candidates);
  }
}

TEST(ChoosePages, EqualTheCpusChoiceOfPagesAndSlots) {
  for (const PoolingRule pooling : {PoolingRule::kMeanSoftmax, PoolingRule::kMaxSoftmax,
                                    PoolingRule::kMeanScore, PoolingRule::kMaxScore}) {
    for (const int factor : {1, 3}) {
      run_random_steps({.k = 8, .resident = 8 * factor, .pooling = pooling}, 40);
      run_random_steps({.heads = 1,
                        .group = 7,
                        .k = 33,
                        .resident = 33 * factor,
                        .max_candidates = 90,
                        .pooling = pooling},
                       40);
    }
    run_random_steps({.heads = 3, .group = 1, .k = 1, .resident = 2, .pooling = pooling}, 20);
    run_random_steps({.heads = 1, .group = 16, .k = 5, .resident = 70, .pooling = pooling}, 20);
  }
}

TEST(ChoosePages, ManyCandidatesAndSlots) {
  // Around what stays in shared memory (16384), and far more.
  for (const int n : {4096, 16384, 16385, 65536}) {
    for (const PoolingRule pooling : {PoolingRule::kMeanSoftmax, PoolingRule::kMaxScore}) {
      const World world{.heads = 1,
                        .group = n > 20000 ? 2 : 5,
                        .k = n == 4096 ? 56 : 130,
                        .resident = n == 4096 ? 168 : 2000,
                        .max_candidates = n,
                        .pooling = pooling};
      SCOPED_TRACE(world.name());
      Harness harness(world);
      for (int i = 0; i < 3; ++i) {
        ASSERT_NO_FATAL_FAILURE(
            harness.check(random_step(harness, world, {n - 3 + i, world.k + 1, n / 2})));
      }
    }
  }
}

TEST(ChoosePages, AThousandSelected) {
  const World world{.heads = 1, .group = 2, .k = 1100, .resident = 2100, .max_candidates = 5000};
  Harness harness(world);
  for (const int n : {1100, 1101, 2500, 5000}) {
    ASSERT_NO_FATAL_FAILURE(harness.check(random_step(harness, world, {n, n, n})));
  }
}

// --- forced churn --------------------------------------------------------------------------------

Step step_of_all(const Harness& harness, int n) {
  Step step;
  step.candidates.assign(Harness::kSequences, n);
  step.mode.assign(harness.rows(), step.which);
  return step;
}

std::vector<std::vector<int32_t>> selections(Harness& harness) {
  std::vector<std::vector<int32_t>> all;
  for (size_t row = 0; row < harness.rows(); ++row) all.push_back(harness.selected(row));
  return all;
}

// Ascending, distinct, candidates; returns how many are not in `last`.
int expect_selection(const std::vector<int32_t>& pages, const std::vector<int32_t>& last, int k,
                     int sink, int n) {
  EXPECT_EQ(static_cast<int>(pages.size()), k);
  EXPECT_TRUE(std::is_sorted(pages.begin(), pages.end(), std::less_equal<>()));
  EXPECT_GE(pages.front(), sink);
  EXPECT_LT(pages.back(), sink + n);
  int fresh = 0;
  for (const int32_t page : pages) fresh += !std::binary_search(last.begin(), last.end(), page);
  return fresh;
}

TEST(ChoosePages, ForcedChurnReplacesItsShare) {
  for (const float share : {0.0f, 0.25f, 1.0f}) {
    const World world{.k = 100, .resident = 100, .max_candidates = 1000, .churn = share};
    Harness harness(world), again(world);
    std::vector<std::vector<int32_t>> last;
    int fresh = 0, of = 0;
    for (int step = 0; step < 12; ++step) {
      const int n = 900 + step;
      harness.launch(step_of_all(harness, n));
      again.launch(step_of_all(again, n));
      const auto now = selections(harness);
      ASSERT_EQ(selections(again), now) << "chance must come from the hash alone";
      for (size_t row = 0; row < now.size(); ++row) {
        const std::vector<int32_t> none;
        const int changed =
            expect_selection(now[row], step > 0 ? last[row] : none, 100, harness.sink(), n);
        if (step > 0) fresh += changed, of += 100;
      }
      last = now;
    }
    EXPECT_NEAR(static_cast<double>(fresh) / of, share, share > 0 && share < 1 ? 0.03 : 0);
  }
}

TEST(ChoosePages, ForcedChurnWithLittleToDrawFrom) {
  const World world{.k = 60, .resident = 60, .max_candidates = 61, .churn = 0.9f};
  Harness harness(world);
  // All candidates first, then a selection that is too short for k, then collisions everywhere.
  for (const int n : {50, 61, 61, 61}) {
    harness.launch(step_of_all(harness, n));
    for (const std::vector<int32_t>& pages : selections(harness)) {
      expect_selection(pages, {}, std::min(n, 60), harness.sink(), n);
    }
  }
}

}  // namespace
}  // namespace freekv::cuda
