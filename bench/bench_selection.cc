// Selection for one token of the demo model at 64K: 6 layers x 2 KV heads, 2,048 pages each.
#include "backends/cpu/selection.hpp"

#include <fmt/format.h>

#include "backends/kv_cases.hpp"
#include "backends/reference/selection.hpp"
#include "op_bench.hpp"

namespace freekv::bench {
namespace {

constexpr int64_t kPages = 2048;
constexpr int kUnits = 12;  // (layer, KV head): a token scores each once, so caches hold few
constexpr size_t kSelected = 14;

struct Case {
  DType dtype;
  int group;
  int head_dim;
};

class Selector {
 public:
  explicit Selector(const Case& c)
      : case_(c),
        q_(cases::random_floats(c.group * c.head_dim, 1)),
        scores_(cases::poisoned(c.group * kPages)),
        pooled_(cases::poisoned(kPages)),
        selected_(kSelected) {
    // One page of keys for each page of the sketches, of four tokens to keep the setup short.
    const cases::PagedKv kv({1, c.head_dim, 4, c.dtype}, KvLayout::kHND, kPages * 4, 3);
    for (int unit = 0; unit < kUnits; ++unit) {
      BoxSketchView view{nullptr, c.dtype, c.head_dim};
      memory_.emplace_back(static_cast<size_t>(kPages / BoxSketchView::kBlockPages) *
                           view.block_bytes());
      view.data = memory_.back().data();
      for (int64_t j = 0; j < kPages; ++j) {
        const auto slot = kv.slots()[static_cast<size_t>((j * 7 + unit) % kPages)];
        cpu::build_box_sketch(kv.pool(), slot, 0, view, j);
      }
      sketches_.push_back(view);
    }
  }

  void score(int unit) {
    cpu::score_box_pages(q(), sketches_[static_cast<size_t>(unit)], 0, scores(scores_));
  }
  void pool() { cpu::pool_scores(Pooling::kMeanSoftmax, 0.125f, scores(scores_), pooled()); }
  void choose() { cpu::top_k(pooled(), selected_); }

  bool agrees_with_reference(benchmark::State& state) {
    std::vector<float> expected = cases::poisoned(static_cast<int64_t>(scores_.size()));
    reference::score_box_pages(q(), sketches_[0], 0, scores(expected));
    score(0);
    if (!agrees(state, scores_, expected, 1e-5)) return false;
    const std::vector<float> exact = expected;
    std::vector<float> pooled_expected = cases::poisoned(kPages);
    reference::pool_scores(Pooling::kMeanSoftmax, 0.125f, scores(expected),
                           View<float, 1>(pooled_expected.data(), kPages));
    pool();
    if (!agrees(state, pooled_, pooled_expected, 1e-4)) return false;
    std::vector<int32_t> selected_expected(kSelected);
    reference::top_k(pooled(), selected_expected);
    choose();
    if (selected_ == selected_expected) return true;
    state.SkipWithError("selects other pages than the reference: not timed");
    return false;
  }
  double sketch_bytes() const { return static_cast<double>(memory_[0].size()); }

 private:
  View<const float, 2> q() const {
    return View<const float, 2>(q_.data(), case_.group, case_.head_dim);
  }
  View<float, 2> scores(std::vector<float>& values) const {
    return View<float, 2>(values.data(), case_.group, kPages);
  }
  View<float, 1> pooled() { return View<float, 1>(pooled_.data(), kPages); }

  Case case_;
  std::vector<float> q_;
  std::vector<std::vector<std::byte>> memory_;
  std::vector<BoxSketchView> sketches_;
  std::vector<float> scores_;
  std::vector<float> pooled_;
  std::vector<int32_t> selected_;
};

// The three steps for every unit, each timed on its own and together.
void run(benchmark::State& state, Case c) {
  using Clock = std::chrono::steady_clock;
  Selector selector(c);
  if (!selector.agrees_with_reference(state)) return;
  std::array<double, 3> best;
  best.fill(std::numeric_limits<double>::infinity());
  const double seconds = best_iteration(state, [&] {
    std::array<double, 3> spent{};
    for (int unit = 0; unit < kUnits; ++unit) {
      std::array<Clock::time_point, 4> at;
      at[0] = Clock::now();
      selector.score(unit);
      at[1] = Clock::now();
      selector.pool();
      at[2] = Clock::now();
      selector.choose();
      at[3] = Clock::now();
      for (size_t i = 0; i < 3; ++i) {
        spent[i] += std::chrono::duration<double>(at[i + 1] - at[i]).count();
      }
    }
    for (size_t i = 0; i < 3; ++i) best[i] = std::min(best[i], spent[i]);
  });
  state.counters["us/kv_head"] = seconds / kUnits * 1e6;
  state.counters["score_us"] = best[0] / kUnits * 1e6;
  state.counters["pool_us"] = best[1] / kUnits * 1e6;
  state.counters["top_k_us"] = best[2] / kUnits * 1e6;
  state.counters["sketch_GB/s"] = selector.sketch_bytes() * kUnits / best[0] * 1e-9;
}

}  // namespace

void add_benchmarks() {
  for (const DType dtype : cases::kKvTypes) {
    for (const int group : {1, 4, 7}) {
      for (const int dim : {64, 128}) {
        const std::string name = fmt::format("selection/{}/pages:{}/group:{}/dim:{}",
                                             dtype_name(dtype), kPages, group, dim);
        add_benchmark(name, 0.2, benchmark::kMicrosecond, run, Case{dtype, group, dim});
      }
    }
  }
}

}  // namespace freekv::bench
