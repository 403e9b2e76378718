// Scoring 2-bit keys of 64K tokens for one token of one KV head, against the dense attention over
// the same tokens that it stands in for; every page, and a fifth of them as a first stage leaves.
#include <fmt/format.h>

#include <numeric>

#include "backends/cpu/decode_attention.hpp"
#include "backends/cpu/kv.hpp"
#include "backends/cpu/selection.hpp"
#include "backends/kv_cases.hpp"
#include "backends/reference/selection.hpp"
#include "machine_limits.hpp"
#include "op_bench.hpp"

namespace freekv::bench {
namespace {

constexpr int32_t kPages = 2048;
constexpr int kPage = 32;
constexpr int kLayers = 6;  // a token visits each once, so caches hold few
constexpr float kScale = 0.125f;

struct Case {
  DType dtype;
  int group;
  int head_dim;
};

class Key2Head {
 public:
  explicit Key2Head(const Case& c)
      : ctx_(1),
        shape_{1, c.head_dim, kPage, c.dtype},
        kv_(shape_.slot_bytes() * size_t{kLayers} * kPages),
        group_(c.group),
        q_(cases::random_floats(c.group * c.head_dim, 1)),
        out_(cases::poisoned(c.group * c.head_dim)),
        scores_(cases::poisoned(int64_t{c.group} * kPages)) {
    // Some random pages, repeated: neither arithmetic nor traffic depends on values.
    const cases::PagedKv some(shape_, KvLayout::kNHD, 64 * kPage, 3);
    pages_.resize(kPages);
    std::iota(pages_.begin(), pages_.end(), 0);
    for (int32_t i = 0; i < kPages; i += 5) fifth_.push_back(i);
    Key2SketchView view{nullptr, c.dtype, c.head_dim, kPage};
    sketches_ = Buffer(view.page_bytes() * size_t{kLayers} * kPages);
    for (int layer = 0; layer < kLayers; ++layer) {
      for (int32_t page = 0; page < kPages; ++page) {
        const int32_t from = some.slots()[static_cast<size_t>((page * 7 + layer) % 64)];
        cpu::copy_head_page(some.pool(), from, pool(layer), page, 0);
        cpu::build_key2_sketch(pool(layer), page, 0, sketch(layer), page);
      }
    }
    scratch_.reserve(ctx_, {.max_rows = 1,
                            .max_pages = kPages,
                            .heads = c.group,
                            .kv_heads = 1,
                            .head_dim = c.head_dim,
                            .page = kPage});
  }

  void score(int layer, std::span<const int32_t> pages) {
    cpu::score_key2_pages(q(), sketch(layer), kScale, pages,
                          View<float, 2>(scores_.data(), group_, pages.size()));
  }
  void attend(int layer) {
    const AttentionRow row{pool(layer), 0, pages_, kPage};
    cpu::decode_attention(ctx_, scratch_, View<const float, 3>(q_.data(), 1, group_, dim()),
                          std::span(&row, 1), kScale,
                          View<float, 3>(out_.data(), 1, group_, dim()));
  }
  bool agrees_with_reference(benchmark::State& state) {
    std::vector<float> expected = cases::poisoned(static_cast<int64_t>(scores_.size()));
    reference::score_key2_pages(q(), sketch(0), kScale, pages_,
                                View<float, 2>(expected.data(), group_, kPages));
    score(0, pages_);
    return agrees(state, scores_, expected, 1e-5);
  }

  std::span<const int32_t> pages() const { return pages_; }
  std::span<const int32_t> fifth() const { return fifth_; }
  double sketch_bytes() const { return static_cast<double>(sketches_.bytes()) / kLayers; }
  ExecutionContext& context() { return ctx_; }

 private:
  int64_t dim() const { return shape_.head_dim; }
  View<const float, 2> q() const { return View<const float, 2>(q_.data(), group_, dim()); }
  KvPool pool(int layer) {
    return {kv_.data() + shape_.slot_bytes() * static_cast<size_t>(layer) * kPages, shape_,
            KvLayout::kNHD, kPages};
  }
  Key2SketchView sketch(int layer) {
    Key2SketchView view{nullptr, shape_.dtype, shape_.head_dim, kPage};
    view.data = sketches_.data() + view.page_bytes() * static_cast<size_t>(layer) * kPages;
    return view;
  }

  ExecutionContext ctx_;
  KvShape shape_;
  Buffer kv_;
  Buffer sketches_;
  int group_;
  std::vector<int32_t> pages_;
  std::vector<int32_t> fifth_;
  std::vector<float> q_;
  std::vector<float> out_;
  std::vector<float> scores_;
  cpu::DecodeAttentionScratch scratch_;
};

void run(benchmark::State& state, Case c) {
  using Clock = std::chrono::steady_clock;
  Key2Head head(c);
  if (!head.agrees_with_reference(state)) return;
  const double limit = read_bandwidth(head.context());
  std::array<double, 3> best;
  best.fill(std::numeric_limits<double>::infinity());
  // One thread, and each of the three over all layers before the next.
  const auto timed = [&](size_t which, auto&& body) {
    const Clock::time_point start = Clock::now();
    for (int layer = 0; layer < kLayers; ++layer) body(layer);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best[which] = std::min(best[which], seconds / kLayers);
  };
  best_iteration(state, [&] {
    timed(0, [&](int layer) { head.score(layer, head.pages()); });
    timed(1, [&](int layer) { head.score(layer, head.fifth()); });
    timed(2, [&](int layer) { head.attend(layer); });
  });
  state.counters["score_us"] = best[0] * 1e6;
  state.counters["fifth_us"] = best[1] * 1e6;
  state.counters["attention_us"] = best[2] * 1e6;
  state.counters["of_attention"] = best[0] / best[2];
  state.counters["sketch_GB/s"] = head.sketch_bytes() / best[0] * 1e-9;
  state.counters["share"] = head.sketch_bytes() / best[0] / limit;
}

}  // namespace

void add_benchmarks() {
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    for (const int group : {1, 4, 7}) {
      for (const int dim : {64, 128}) {
        add_benchmark(fmt::format("key2/{}/tokens:{}/group:{}/dim:{}", dtype_name(dtype),
                                  int64_t{kPages} * kPage, group, dim),
                      0.1, benchmark::kMicrosecond, run, Case{dtype, group, dim});
      }
    }
  }
}

}  // namespace freekv::bench
