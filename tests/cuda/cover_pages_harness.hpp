// What the tests of cover_pages() and cover_rest() run on: sequences whose tables are kept by the
// kernels and by the host's own code, step by step: masses by the reference backend's pooling,
// top-k, and PageTable. What policy freekv-coverage does between them is written down here once
// more.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"
#include "backends/cuda/test_arrays.hpp"
#include "backends/reference/selection.hpp"
#include "device/cuda/runtime.hpp"
#include "kvcache/page_table.hpp"

namespace freekv::cuda::cover_test {

inline constexpr int kPage = 16;
inline constexpr int kSequences = 2;

struct World {
  int heads = 2;
  int group = 4;
  int k = 8;
  int resident = 8;
  int sink = 2;
  int max_candidates = 200;
  double epsilon = 0.05;

  std::string name() const {
    return "M=" + std::to_string(heads) + " G=" + std::to_string(group) +
           " k=" + std::to_string(k) + " resident=" + std::to_string(resident) +
           " sink=" + std::to_string(sink) + " n<=" + std::to_string(max_candidates) +
           " epsilon=" + std::to_string(epsilon);
  }
};

// One row's expected state.
struct HostRow {
  std::vector<int32_t> chosen, attended;
  std::vector<PageMove> before, after;
  RowMode mode = RowMode::kDense;
};

class CoverHarness {
 public:
  explicit CoverHarness(const World& world) : world_(world), random_(5) {
    map_.page = kPage;
    map_.sink = world.sink;
    map_.window = 3;
    map_.selected = world.k;
    map_.resident = world.resident;
    map_.beside = std::min(world.resident, 2 * world.k) - world.k;
    max_pages_ = map_.sink + world.max_candidates + 5;
    const auto heads = static_cast<size_t>(world.heads);
    std::vector<SequenceLayer> layers(kSequences);
    for (size_t s = 0; s < kSequences; ++s) {
      PageTable& table = tables_.emplace_back(world.heads, world.resident, max_pages_);
      // One comes from within the budget, the other from a longer prompt.
      if (s == 0) table.assign_all(map_.sink, world.k);
      uses_.emplace_back(heads * static_cast<size_t>(world.resident), 0u);
      clocks_.emplace_back(heads, 0u);
      SequenceLayer& layer = layers[s];
      layer.budgeted = layer.retrieves = true;
      layer.max_pages = max_pages_;
      layer.slot_of_page = keep(to_device(slots_of_pages(s)))->as<int32_t>();
      layer.page_in_slot = keep(to_device(pages_in_slots(s)))->as<int32_t>();
      layer.last_use = keep(to_device(uses_[s]))->as<uint32_t>();
      layer.clock = keep(to_device(clocks_[s]))->as<uint32_t>();
      const auto listed = static_cast<size_t>(map_.attended_selected());
      layer.selected = keep(to_device(std::vector<int32_t>(heads * listed, -1)))->as<int32_t>();
      layer.selected_count = keep(device_array<int32_t>(heads))->as<int32_t>();
      layer.chosen = keep(to_device(std::vector<int32_t>(heads * k(), -1)))->as<int32_t>();
      layer.chosen_count = keep(device_array<int32_t>(heads))->as<int32_t>();
    }
    layers_ = layers;
    table_ = to_device(layers);
    sequence_ = to_device(std::vector<int32_t>{1, 0});
    tokens_ = device_array<int64_t>(kSequences);
    mode_ = device_array<RowMode>(rows());
    moves_ = device_array<Move>(rows() * k());
    move_count_ = device_array<int32_t>(rows());
    counters_ = to_device(std::vector<RowCounters>(rows()));
    expected_counters_.resize(rows());
    expected_.resize(rows());
    const KvGeometry kv{world.heads, world.group, 128, kPage, KvType::kBF16};
    scratch_ =
        DeviceBuffer(select_scratch(kv, kSequences, world.max_candidates, map_.sink + map_.ring()));
    params_.batch = {kSequences, 1, sequence_.as<int32_t>(), tokens_.as<int64_t>(),
                     table_.as<SequenceLayer>()};
    params_.kv = kv;
    params_.map = map_;
    params_.sketch = SketchKind::kKey2;
    params_.mode = mode_.as<RowMode>();
    params_.which = RowMode::kCorrected;
    params_.max_candidates = world.max_candidates;
    params_.mass = true;
    params_.moves = moves_.as<Move>();
    params_.move_count = move_count_.as<int32_t>();
    params_.counters = counters_.as<RowCounters>();
  }

  size_t rows() const { return static_cast<size_t>(kSequences * world_.heads); }
  size_t k() const { return static_cast<size_t>(world_.k); }
  int roll(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }

  /// A step at which the sequences have so many candidates. `sharp`: deviation of the scores.
  /// `dense`: a row that does not take part, or -1.
  void check(const std::vector<int>& candidates, float sharp, int dense) {
    std::vector<int64_t> tokens;
    for (const int n : candidates) {
      tokens.push_back(int64_t{kPage} * (map_.sink + map_.window + n) + roll(kPage) - 1);
    }
    copy_to_device(tokens, tokens_.data());
    std::vector<RowMode> mode(rows(), RowMode::kCorrected);
    if (dense >= 0) mode[static_cast<size_t>(dense)] = RowMode::kDense;
    copy_to_device(mode, mode_.data());
    fill_scratch(tokens, sharp);
    poison_moves();
    const Stream stream;
    params_.scratch = scratch_.data();
    cover_pages({params_, mode_.as<RowMode>(), world_.epsilon}, stream);
    stream.synchronize();
    for (size_t row = 0; row < rows(); ++row) {
      SCOPED_TRACE("row " + std::to_string(row));
      if (mode[row] == RowMode::kDense) {
        expected_[row].before.clear();
        expected_[row].after.clear();
        expected_[row].mode = RowMode::kDense;
        continue;
      }
      ASSERT_NO_FATAL_FAILURE(cover_on_host(row, tokens));
    }
    ASSERT_NO_FATAL_FAILURE(expect_all("before attention", true));

    poison_moves();
    copy_to_device(std::vector<std::byte>(scratch_.bytes(), std::byte{0xff}), scratch_.data());
    cover_rest(params_, stream);
    stream.synchronize();
    for (size_t row = 0; row < rows(); ++row) {
      if (mode[row] != RowMode::kDense) rest_on_host(row);
    }
    ASSERT_NO_FATAL_FAILURE(expect_all("after attention", false));
  }

  /// Rows that were corrected and those that were not though something was missing.
  int corrected = 0, left = 0;

 private:
  DeviceBuffer* keep(DeviceBuffer buffer) {
    return kept_.emplace_back(std::make_unique<DeviceBuffer>(std::move(buffer))).get();
  }
  size_t sequence_of(size_t row) const {
    return kSequences - 1 - row / static_cast<size_t>(world_.heads);
  }
  int head_of(size_t row) const {
    return static_cast<int>(row % static_cast<size_t>(world_.heads));
  }
  size_t counter_of(size_t row) const {
    return sequence_of(row) * static_cast<size_t>(world_.heads) + static_cast<size_t>(head_of(row));
  }

  std::vector<int32_t> slots_of_pages(size_t s) const {
    std::vector<int32_t> all;
    for (int head = 0; head < world_.heads; ++head) {
      for (int32_t page = 0; page < max_pages_; ++page) {
        all.push_back(tables_[s].slot_of(head, page));
      }
    }
    return all;
  }
  std::vector<int32_t> pages_in_slots(size_t s) const {
    std::vector<int32_t> all;
    for (int head = 0; head < world_.heads; ++head) {
      for (int32_t slot = 0; slot < world_.resident; ++slot) {
        all.push_back(tables_[s].page_in(head, slot));
      }
    }
    return all;
  }

  void poison_moves() {
    copy_to_device(std::vector<Move>(rows() * k(), Move{-7, -7}), moves_.data());
    copy_to_device(std::vector<int32_t>(rows(), -7), move_count_.data());
  }

  // Scores that drift from step to step, as a query's do, and what was summed up of them; NaN
  // elsewhere.
  void fill_scratch(const std::vector<int64_t>& tokens, float sharp) {
    std::vector<float> memory(scratch_.bytes() / sizeof(float),
                              std::numeric_limits<float>::quiet_NaN());
    params_.scratch = memory.data();
    const SelectionScratch scratch(params_);
    std::normal_distribution<float> normal(0, sharp);
    columns_.assign(rows(), {});
    for (size_t row = 0; row < rows(); ++row) {
      const int64_t length = tokens[sequence_of(row)] + 1;
      const int n = map_.candidates(length), common = map_.common_count(length);
      for (int g = 0; g < world_.group; ++g) {
        float* scores = scratch.row_scores(static_cast<int>(row), g);
        for (int i = 0; i < n; ++i) scores[i] = normal(random_);
        for (int first = 0; first < n; first += kScoreSplit) {
          scratch.row_splits(static_cast<int>(row), g)[first / kScoreSplit] =
              softmax(scores + first, std::min(kScoreSplit, n - first));
        }
        std::vector<float>& columns = columns_[row];
        columns.insert(columns.end(), scores, scores + n);
        for (int i = 0; i < common; ++i) {
          const float part[] = {normal(random_), normal(random_)};  // of two tokens
          const SplitSoftmax both = softmax(part, 2);
          scratch.row_common(static_cast<int>(row), g)[i] = both;
          columns.push_back(both.highest + std::log(both.sum));
        }
      }
    }
    copy_to_device(memory, scratch_.data());
  }
  static SplitSoftmax softmax(const float* scores, int n) {
    SplitSoftmax result{*std::max_element(scores, scores + n), 0};
    for (int i = 0; i < n; ++i) result.sum += std::exp(scores[i] - result.highest);
    return result;
  }

  // The reference's masses of candidates, then of sink and window. The device's differ in the last
  // bits: held against the reference's, they are what is chosen from.
  std::vector<float> masses(size_t row, int n, int common) {
    const int width = n + common;
    std::vector<float> scores = columns_[row], pooled(static_cast<size_t>(width));
    reference::pool_scores(Pooling::kMeanSoftmax, 1,
                           View<float, 2>(scores.data(), world_.group, width),
                           View<float, 1>(pooled.data(), width));
    auto memory = to_host<float>(scratch_);
    params_.scratch = memory.data();
    const float* actual = SelectionScratch(params_).row_pooled(static_cast<int>(row));
    for (int i = 0; i < n; ++i) {
      const float wanted = pooled[static_cast<size_t>(i)];
      EXPECT_NEAR(actual[i], wanted, wanted * 3e-5 + 1e-35) << "mass of candidate " << i;
    }
    std::copy_n(actual, n, pooled.begin());
    return pooled;
  }

  // Policy freekv-coverage, before attention.
  void cover_on_host(size_t row, const std::vector<int64_t>& tokens) {
    HostRow& host = expected_[row];
    const size_t s = sequence_of(row);
    const int head = head_of(row);
    PageTable& table = tables_[s];
    const int64_t length = tokens[s] + 1;
    const int n = map_.candidates(length), common = map_.common_count(length);
    const std::vector<float> mass = masses(row, n, common);
    const std::vector<int32_t> last = host.chosen;
    host.chosen.resize(std::min(k(), static_cast<size_t>(n)));
    reference::top_k(View<const float, 1>(mass.data(), n), host.chosen);
    for (int32_t& page : host.chosen) page += map_.sink;

    struct Missing {
      float mass;
      int32_t page;
    };
    std::vector<Missing> missing;
    std::vector<int32_t> present;
    for (const int32_t page : host.chosen) {
      if (table.slot_of(head, page) >= 0) {
        present.push_back(page);
      } else {
        missing.push_back({mass[static_cast<size_t>(page - map_.sink)], page});
      }
    }
    std::sort(missing.begin(), missing.end(), [](const Missing& a, const Missing& b) {
      return a.mass != b.mass ? a.mass > b.mass : a.page < b.page;
    });
    size_t recalled = missing.size();
    double weight = 0;
    while (recalled > 0 && weight + missing[recalled - 1].mass < world_.epsilon) {
      weight += missing[--recalled].mass;
    }
    for (size_t i = 0; i < recalled; ++i) present.push_back(missing[i].page);
    std::sort(present.begin(), present.end());
    host.before = make_resident(s, head, present);
    host.after.clear();

    std::set<int32_t> attended(present.begin(), present.end());
    for (const int32_t page : last) {
      if (table.slot_of(head, page) >= 0) attended.insert(page);
    }
    host.attended.assign(attended.begin(), attended.end());
    host.mode = recalled > 0 ? RowMode::kCorrected : RowMode::kSpeculative;
    corrected += recalled > 0;
    left += recalled < missing.size();

    double found = std::accumulate(mass.begin() + n, mass.end(), 0.0);
    for (const int32_t page : host.attended) found += mass[static_cast<size_t>(page - map_.sink)];
    RowCounters& counters = expected_counters_[counter_of(row)];
    counters.selections += 1;
    counters.pages_selected += host.chosen.size();
    counters.tested += 1;
    counters.drifted += recalled > 0;
    counters.misses_before += recalled;
    counters.lost_mass += std::max(0.0, 1 - found);
  }

  void rest_on_host(size_t row) {
    HostRow& host = expected_[row];
    const size_t s = sequence_of(row);
    const int head = head_of(row);
    const bool complete = std::all_of(host.chosen.begin(), host.chosen.end(), [&](int32_t page) {
      return tables_[s].slot_of(head, page) >= 0;
    });
    host.after.clear();
    if (!complete) host.after = make_resident(s, head, host.chosen);
    expected_counters_[counter_of(row)].misses_after += host.after.size();
  }

  std::vector<PageMove> make_resident(size_t s, int head, std::span<const int32_t> pages) {
    std::vector<PageMove> moves(pages.size());
    moves.resize(static_cast<size_t>(tables_[s].plan(head, pages, moves)));
    tables_[s].commit(head, pages, moves);
    const uint32_t now = ++clocks_[s][static_cast<size_t>(head)];
    for (const int32_t page : pages) {
      uses_[s][static_cast<size_t>(head * world_.resident + tables_[s].slot_of(head, page))] = now;
    }
    return moves;
  }

  template <typename T>
  std::vector<T> fetch(const T* from, size_t count) const {
    std::vector<T> values(count);
    check_cuda(cudaMemcpy(values.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost), "fetch");
    return values;
  }

  void expect_all(const char* when, bool before) {
    SCOPED_TRACE(when);
    const auto counts = to_host<int32_t>(move_count_);
    const auto moves = to_host<Move>(moves_);
    const auto mode = to_host<RowMode>(mode_);
    for (size_t row = 0; row < rows(); ++row) {
      SCOPED_TRACE("row " + std::to_string(row));
      const HostRow& host = expected_[row];
      const std::vector<PageMove>& wanted = before ? host.before : host.after;
      ASSERT_EQ(mode[row], host.mode);
      ASSERT_EQ(static_cast<size_t>(counts[row]), wanted.size()) << "moves";
      for (size_t i = 0; i < k(); ++i) {
        const Move& move = moves[row * k() + i];
        ASSERT_EQ(move.page, i < wanted.size() ? wanted[i].page : -7) << "move " << i;
        ASSERT_EQ(move.slot, i < wanted.size() ? wanted[i].slot : -7) << "move " << i;
      }
      const SequenceLayer& layer = layers_[sequence_of(row)];
      const auto head = static_cast<size_t>(head_of(row));
      const auto listed = static_cast<size_t>(map_.attended_selected());
      const auto list = [&](const int32_t* pages, size_t stride, const int32_t* count) {
        const auto n = static_cast<size_t>(fetch(count + head, 1)[0]);
        return fetch(pages + head * stride, n);
      };
      ASSERT_EQ(list(layer.chosen, k(), layer.chosen_count), host.chosen) << "chosen";
      ASSERT_EQ(list(layer.selected, listed, layer.selected_count), host.attended) << "attended";
    }
    for (size_t s = 0; s < kSequences; ++s) {
      SCOPED_TRACE("sequence " + std::to_string(s));
      const SequenceLayer& layer = layers_[s];
      const auto heads = static_cast<size_t>(world_.heads);
      const size_t slots = heads * static_cast<size_t>(world_.resident);
      ASSERT_EQ(fetch(layer.slot_of_page, heads * static_cast<size_t>(max_pages_)),
                slots_of_pages(s));
      ASSERT_EQ(fetch(layer.page_in_slot, slots), pages_in_slots(s));
      ASSERT_EQ(fetch(layer.last_use, slots), uses_[s]) << "last use";
      ASSERT_EQ(fetch(layer.clock, heads), clocks_[s]) << "clock";
    }
    const auto counters = to_host<RowCounters>(counters_);
    for (size_t i = 0; i < counters.size(); ++i) {
      const RowCounters &got = counters[i], &wanted = expected_counters_[i];
      ASSERT_EQ(got.selections, wanted.selections) << i;
      ASSERT_EQ(got.pages_selected, wanted.pages_selected) << i;
      ASSERT_EQ(got.misses_before, wanted.misses_before) << i;
      ASSERT_EQ(got.misses_after, wanted.misses_after) << i;
      ASSERT_EQ(got.tested, wanted.tested) << i;
      ASSERT_EQ(got.drifted, wanted.drifted) << i;
      ASSERT_NEAR(got.lost_mass, wanted.lost_mass, 1e-5 * (1 + static_cast<double>(got.tested)))
          << i;
    }
  }

  World world_;
  PageMap map_;
  std::mt19937 random_;
  int32_t max_pages_ = 0;
  std::vector<PageTable> tables_;  // by sequence, as the next two
  std::vector<std::vector<uint32_t>> uses_, clocks_;
  std::vector<std::unique_ptr<DeviceBuffer>> kept_;
  std::vector<SequenceLayer> layers_;
  DeviceBuffer table_, sequence_, tokens_, mode_, moves_, move_count_, counters_, scratch_;
  std::vector<std::vector<float>> columns_;  // [rows][G * (n + common)]
  std::vector<HostRow> expected_;
  std::vector<RowCounters> expected_counters_;
  SelectParams params_;
};

}  // namespace freekv::cuda::cover_test
