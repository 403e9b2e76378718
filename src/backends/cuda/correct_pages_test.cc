// correct_pages() against the kernels that it joins, which have tests of their own: the same pages
// in the same slots, with the same bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "backends/cuda/correction.hpp"
#include "backends/cuda/recall.hpp"
#include "backends/cuda/test_arrays.hpp"
#include "backends/op_cases.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kLayer = 1, kLayers = 2;

struct CorrectCase {
  KvGeometry kv;
  int k = 8;
  int resident = 8;
  std::vector<int> candidates;  // by sequence
  Pooling pooling = Pooling::kMeanSoftmax;
  SketchKind sketch = SketchKind::kMinMax;
  bool alike = false;  // all candidates score the same
  float churn = -1;    // SelectParams::forced_churn

  std::string name() const {
    std::string all = "M=" + std::to_string(kv.kv_heads) + " G=" + std::to_string(kv.group) +
                      " d=" + std::to_string(kv.head_dim) + " p=" + std::to_string(kv.page) +
                      " k=" + std::to_string(k) + " resident=" + std::to_string(resident) +
                      " pooling=" + std::to_string(static_cast<int>(pooling)) +
                      " sketch=" + std::to_string(static_cast<int>(sketch)) + " n=";
    for (const int n : candidates) all += std::to_string(n) + ",";
    return all;
  }
};

// Patterns that are numbers in either KV type, neither NaN nor infinite.
std::vector<uint16_t> random_values(size_t count, uint32_t seed) {
  std::vector<uint16_t> values(count);
  uint64_t state = seed;
  for (uint16_t& value : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    value = static_cast<uint16_t>((state >> 48 & 0x807fu) | 0x3c00u);
  }
  return values;
}

// Everything that a selection may change, on the device.
class Tables {
 public:
  explicit Tables(const CorrectCase& c) : case_(c) {
    map_.page = c.kv.page;
    map_.sink = 1;
    map_.window = 2;
    map_.selected = c.k;
    map_.resident = c.resident;
    map_.budget = int64_t{c.kv.page} * (map_.sink + map_.window + c.k);
    max_pages_ = *std::max_element(c.candidates.begin(), c.candidates.end()) + 8;
    const auto n = c.candidates.size();
    std::vector<SequenceLayer> layers(n * kLayers);
    std::vector<int32_t> sequence(n);
    std::vector<int64_t> tokens(n);
    sequences_.resize(n);
    for (size_t b = 0; b < n; ++b) {
      const size_t s = n - 1 - b;  // the batch has them in reverse
      sequence[b] = static_cast<int32_t>(s);
      // T counts this step's token.
      tokens[s] = int64_t{c.kv.page} * (map_.sink + map_.window + c.candidates[b]) + 3;
      layers[s * kLayers + kLayer] = make(sequences_[s], s != 1, static_cast<uint32_t>(s));
    }
    sequence_ = to_device(sequence);
    tokens_ = to_device(tokens);
    layers_ = to_device(layers);
    const size_t rows = n * static_cast<size_t>(c.kv.kv_heads);
    mode_ = device_array<RowMode>(rows);
    q_ = device_array<float>(rows * static_cast<size_t>(c.kv.group * c.kv.head_dim));
    moves_ = device_array<Move>(rows * static_cast<size_t>(c.k));
    move_count_ = device_array<int32_t>(rows);
    counters_ = to_device(std::vector<RowCounters>(rows));
    const float query_scale = 1 / std::sqrt(static_cast<float>(c.kv.head_dim));
    params_ = {.batch = {static_cast<int32_t>(n), kLayers, sequence_.as<int32_t>(),
                         tokens_.as<int64_t>(), layers_.as<SequenceLayer>()},
               .kv = c.kv,
               .map = map_,
               .layer = kLayer,
               .scale = c.sketch == SketchKind::kKey2 ? 1 : query_scale,
               .query_scale = query_scale,
               .sketch = c.sketch,
               .q = q_.as<float>(),
               .mode = mode_.as<RowMode>(),
               .pooling = c.pooling,
               .max_candidates = max_pages_,
               .forced_churn = c.churn,
               .moves = moves_.as<Move>(),
               .move_count = move_count_.as<int32_t>(),
               .counters = counters_.as<RowCounters>()};
    scratch_ = to_device(std::vector<float>(
        select_scratch(c.kv, params_.batch.n, params_.max_candidates) / sizeof(float), NAN));
    params_.scratch = scratch_.data();
  }

  size_t rows() const { return case_.candidates.size() * static_cast<size_t>(case_.kv.kv_heads); }
  const SelectParams& params() const { return params_; }

  void run(const std::vector<float>& q, const std::vector<RowMode>& mode, bool joined) {
    copy_to_device(q, q_.data());
    copy_to_device(mode, mode_.data());
    params_.corrections = corrections_.as<int32_t>();
    const Stream stream;
    if (joined) {
      correct_pages(params_, stream);
    } else {
      score_pages(params_, stream);
      choose_pages(params_, stream);
      gather({.batch = params_.batch,
              .kv = params_.kv,
              .map = params_.map,
              .layer = params_.layer,
              .moves = params_.moves,
              .move_count = params_.move_count},
             stream);
    }
    stream.synchronize();
  }

  void expect_equal(const Tables& other) const {
    for (size_t s = 0; s < sequences_.size(); ++s) {
      SCOPED_TRACE("sequence " + std::to_string(s));
      const Sequence &a = sequences_[s], &b = other.sequences_[s];
      EXPECT_EQ(to_host<int32_t>(a.selected_count), to_host<int32_t>(b.selected_count));
      EXPECT_EQ(to_host<int32_t>(a.selected), to_host<int32_t>(b.selected));
      if (!a.budgeted) continue;
      EXPECT_EQ(to_host<int32_t>(a.slot_of_page), to_host<int32_t>(b.slot_of_page));
      EXPECT_EQ(to_host<int32_t>(a.page_in_slot), to_host<int32_t>(b.page_in_slot));
      EXPECT_EQ(to_host<uint32_t>(a.last_use), to_host<uint32_t>(b.last_use));
      EXPECT_EQ(to_host<uint32_t>(a.clock), to_host<uint32_t>(b.clock));
      EXPECT_TRUE(to_host<uint16_t>(a.fast) == to_host<uint16_t>(b.fast)) << "fast tiers differ";
    }
    const auto mine = to_host<RowCounters>(counters_),
               theirs = to_host<RowCounters>(other.counters_);
    for (size_t row = 0; row < mine.size(); ++row) {
      EXPECT_EQ(mine[row].selections, theirs[row].selections);
      EXPECT_EQ(mine[row].pages_selected, theirs[row].pages_selected);
      EXPECT_EQ(mine[row].misses_before, theirs[row].misses_before);
      moved_ += mine[row].misses_before;
    }
  }
  unsigned long long moved() const { return moved_; }
  int32_t corrections() const { return to_host<int32_t>(corrections_).front(); }

 private:
  struct Sequence {
    bool budgeted = true;
    PinnedBuffer slow;
    DeviceBuffer fast, sketch, slot_of_page, page_in_slot, last_use, clock, selected,
        selected_count;
  };

  SequenceLayer make(Sequence& s, bool budgeted, uint32_t seed) {
    const auto heads = static_cast<size_t>(case_.kv.kv_heads),
               pages = static_cast<size_t>(max_pages_);
    const size_t slots = heads * static_cast<size_t>(case_.resident);
    s.budgeted = budgeted;
    const auto sketch_bytes = static_cast<size_t>(case_.kv.sketch_bytes(case_.sketch));
    const size_t sketch_values = heads * pages * sketch_bytes / sizeof(uint16_t);
    s.sketch = to_device(case_.alike ? std::vector<uint16_t>(sketch_values, 0)
                                     : random_values(sketch_values, 20 + seed));
    s.selected = to_device(std::vector<int32_t>(heads * static_cast<size_t>(case_.k), -1));
    s.selected_count = to_device(std::vector<int32_t>(heads, -1));
    SequenceLayer layer;
    layer.budgeted = budgeted;
    layer.retrieves = true;
    layer.max_pages = max_pages_;
    layer.sketch_kind = case_.sketch;
    layer.sketch = s.sketch.data();
    layer.selected = s.selected.as<int32_t>();
    layer.selected_count = s.selected_count.as<int32_t>();
    if (!budgeted) return layer;
    const auto slow = random_values(pages * static_cast<size_t>(case_.kv.slot()), 40 + seed);
    s.slow = PinnedBuffer(slow.size() * sizeof(uint16_t), 1);
    std::memcpy(s.slow.data(), slow.data(), slow.size() * sizeof(uint16_t));
    s.fast = to_device(std::vector<uint16_t>(
        static_cast<size_t>(map_.budget_slots()) * static_cast<size_t>(case_.kv.slot()), 0xffff));
    s.slot_of_page = to_device(std::vector<int32_t>(heads * pages, -1));
    s.page_in_slot = to_device(std::vector<int32_t>(slots, -1));
    s.last_use = to_device(std::vector<uint32_t>(slots, 0));
    s.clock = to_device(std::vector<uint32_t>(heads, 0));
    layer.fast = s.fast.data();
    layer.slow = s.slow.device();
    layer.slot_of_page = s.slot_of_page.as<int32_t>();
    layer.page_in_slot = s.page_in_slot.as<int32_t>();
    layer.last_use = s.last_use.as<uint32_t>();
    layer.clock = s.clock.as<uint32_t>();
    return layer;
  }

  CorrectCase case_;
  PageMap map_;
  int32_t max_pages_ = 0;
  std::vector<Sequence> sequences_;
  DeviceBuffer sequence_, tokens_, layers_, mode_, q_, moves_, move_count_, counters_, scratch_;
  DeviceBuffer corrections_ = to_device(std::vector<int32_t>{0});
  SelectParams params_;
  mutable unsigned long long moved_ = 0;
};

void check(const CorrectCase& c) {
  SCOPED_TRACE(c.name());
  Tables joined(c), apart(c);
  ASSERT_TRUE(can_correct_pages(joined.params()));
  for (uint32_t step = 0; step < 5; ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    const auto q = cases::random_floats(
        static_cast<int64_t>(joined.rows()) * c.kv.group * c.kv.head_dim, 60 + step);
    std::vector<RowMode> mode(joined.rows());
    for (size_t row = 0; row < mode.size(); ++row) {
      mode[row] = (row + step) % 3 == 2 ? RowMode::kSpeculative : RowMode::kCorrected;
    }
    joined.run(q, mode, true);
    apart.run(q, mode, false);
    ASSERT_NO_FATAL_FAILURE(joined.expect_equal(apart));
    EXPECT_EQ(joined.corrections(), 0);  // all have counted themselves out
    if (testing::Test::HasFailure()) return;
  }
  const int most = *std::max_element(c.candidates.begin(), c.candidates.end());
  if (most > c.resident && !c.alike) {
    EXPECT_GT(joined.moved(), static_cast<unsigned>(c.k));
  }
}

// On older GPUs there are no clusters, and nothing to compare.
bool clusters() {
  int major = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "attribute");
  return major >= 9;
}

TEST(CorrectPages, EqualsScoringChoosingAndGathering) {
  if (!clusters()) GTEST_SKIP() << "no clusters";
  for (const KvType type : {KvType::kBF16, KvType::kF16}) {
    for (const auto& [heads, group, dim, page] :
         {std::array{1, 1, 64, 16}, std::array{2, 3, 80, 32}, std::array{3, 5, 96, 64},
          std::array{8, 4, 128, 32}, std::array{2, 16, 256, 16}, std::array{1, 7, 128, 16},
          std::array{5, 6, 64, 32}, std::array{1, 16, 128, 64}}) {
      check({{heads, group, dim, page, type}, 8, 11, {200, 0, 70}});
    }
  }
}

TEST(CorrectPages, NumbersOfCandidates) {
  if (!clusters()) GTEST_SKIP() << "no clusters";
  const KvGeometry kv{2, 4, 128, 16, KvType::kBF16};
  for (const int n : {0, 1, 7, 8, 9, 63, 64, 65, 127, 129, 1023, 1024, 1025, 2100}) {
    check({kv, 8, 8, {n, 12}});
  }
}

TEST(CorrectPages, Poolings) {
  if (!clusters()) GTEST_SKIP() << "no clusters";
  for (const Pooling pooling :
       {Pooling::kMeanSoftmax, Pooling::kMaxSoftmax, Pooling::kMeanScore, Pooling::kMaxScore}) {
    check({{3, 4, 128, 16, KvType::kBF16}, 48, 64, {1000, 300, 90}, pooling});
  }
}

TEST(CorrectPages, ScoresOfAnotherSketch) {
  if (!clusters()) GTEST_SKIP() << "no clusters";
  for (const int dim : {64, 128}) {
    check({{3, 4, dim, 32, KvType::kBF16},
           48,
           64,
           {1000, 0, 90},
           Pooling::kMeanSoftmax,
           SketchKind::kKey2});
  }
}

// What benchmarks force is the same in both.
TEST(CorrectPages, ForcedChurn) {
  if (!clusters()) GTEST_SKIP() << "no clusters";
  for (const float churn : {0.0f, 0.25f, 1.0f}) {
    CorrectCase c{{3, 4, 128, 16, KvType::kBF16}, 48, 64, {1000, 300, 90}};
    c.churn = churn;
    check(c);
    c.candidates = {2100, 0, 1000};  // scored apart
    check(c);
  }
}

// Boxes without extent around zero score alike, whatever the query.
TEST(CorrectPages, OfEqualsTheLower) {
  if (!clusters()) GTEST_SKIP() << "no clusters";
  for (const int n : {9, 64, 70, 513, 1000, 3000}) {
    CorrectCase c{{2, 4, 128, 16, KvType::kBF16}, 8, 11, {n, 300}};
    c.alike = true;
    check(c);
  }
}

TEST(CorrectPages, SaysWhatItCannotHold) {
  if (!clusters()) GTEST_SKIP() << "no clusters";
  Tables tables({{1, 4, 128, 32, KvType::kBF16}, 8, 8, {100}});
  SelectParams params = tables.params();
  params.max_candidates = 1 << 20;
  EXPECT_FALSE(can_correct_pages(params));
  EXPECT_ANY_THROW(correct_pages(params, nullptr));
}

}  // namespace
}  // namespace freekv::cuda
