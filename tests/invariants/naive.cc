#include "naive.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

namespace freekv::invariants {
namespace {

using Pages = std::vector<int32_t>;

struct Box {
  std::vector<double> hi, lo;
};

Box make_box(const KvPool& pool, int32_t page, int head, bool cuboid) {
  const KvShape& shape = pool.shape;
  Box box{std::vector<double>(static_cast<size_t>(shape.head_dim), -1e30),
          std::vector<double>(static_cast<size_t>(shape.head_dim), 1e30)};
  const auto key = [&](int t, size_t e) {
    return static_cast<double>(load_element(
        shape.dtype, pool.keys(page, head) + static_cast<size_t>(t) * pool.token_stride(),
        static_cast<int64_t>(e)));
  };
  // Values are kept in the KV type.
  const auto rounded = [&](double x) {
    std::byte bytes[4];
    store_element(shape.dtype, bytes, 0, static_cast<float>(x));
    return static_cast<double>(load_element(shape.dtype, bytes, 0));
  };
  for (size_t e = 0; e < box.hi.size(); ++e) {
    for (int t = 0; t < shape.page; ++t) {
      box.hi[e] = std::max(box.hi[e], key(t, e));
      box.lo[e] = std::min(box.lo[e], key(t, e));
    }
    if (!cuboid) continue;
    const double centre = (box.hi[e] + box.lo[e]) / 2;
    double radius = 0;
    for (int t = 0; t < shape.page; ++t) radius += std::abs(key(t, e) - centre);
    box.hi[e] = rounded(centre + radius / shape.page);
    box.lo[e] = rounded(centre - radius / shape.page);
  }
  return box;
}

double cosine(View<const float, 1> a, View<const float, 1> b) {
  double ab = 0, aa = 0, bb = 0;
  for (int64_t e = 0; e < a.shape(0); ++e) {
    ab += static_cast<double>(a[e]) * b[e];
    aa += static_cast<double>(a[e]) * a[e];
    bb += static_cast<double>(b[e]) * b[e];
  }
  return ab / std::sqrt(aa * bb);
}

class Naive {
 public:
  Naive(const Scenario& setup, const NaiveOptions& options)
      : setup_(setup), options_(options), page_(setup.page) {
    sink_ = (setup.tokens.sink + page_ - 1) / page_;
    window_ = (setup.tokens.window + page_ - 1) / page_;
    if (!options.selects) window_ = setup.tokens.budget / page_ - sink_;
    k_ = static_cast<size_t>(setup.tokens.budget / page_ - sink_ - window_);
    stats.drifted_by_layer.assign(static_cast<size_t>(setup.layers), 0);
  }

  RetrievalStats stats;

  int64_t first_window_page(int64_t t) const { return (t - window_ * page_) / page_; }

  Pages select(const PlainCopy& plain, int layer, int head, View<const float, 2> q, int64_t t) {
    const KvPool& pool = plain.pool(layer);
    const int64_t last = first_window_page(t);
    std::vector<double> pooled;
    std::vector<std::vector<double>> scores(static_cast<size_t>(q.shape(0)));
    for (int64_t j = sink_; j < last; ++j) {
      const Box& box = box_of(pool, layer, head, static_cast<int32_t>(j));
      for (int64_t g = 0; g < q.shape(0); ++g) {
        double s = 0;
        for (int64_t e = 0; e < q.shape(1); ++e) {
          const auto at = static_cast<size_t>(e);
          s += std::max(q[g][e] * box.hi[at], q[g][e] * box.lo[at]);
        }
        scores[static_cast<size_t>(g)].push_back(s / std::sqrt(static_cast<double>(setup_.dim)));
      }
    }
    const bool softmax =
        options_.pooling == Pooling::kMeanSoftmax || options_.pooling == Pooling::kMaxSoftmax;
    const bool mean =
        options_.pooling == Pooling::kMeanSoftmax || options_.pooling == Pooling::kMeanScore;
    pooled.assign(static_cast<size_t>(last - sink_), mean ? 0 : -1e30);
    for (const auto& row : scores) {
      double sum = 0;
      for (const double s : row) sum += std::exp(s);
      for (size_t j = 0; j < row.size(); ++j) {
        const double value = softmax ? std::exp(row[j]) / sum : row[j];
        pooled[j] = mean ? pooled[j] + value : std::max(pooled[j], value);
      }
    }
    Pages order(pooled.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return pooled[static_cast<size_t>(a)] > pooled[static_cast<size_t>(b)];
    });
    order.resize(std::min(order.size(), k_));
    std::sort(order.begin(), order.end());
    for (int32_t& page : order) page += static_cast<int32_t>(sink_);
    return order;
  }

  // Pages to attend to in this step, in order.
  Pages attended(const PlainCopy& plain, int layer, int head, View<const float, 2> q, int64_t t) {
    const int64_t pages = (t + page_ - 1) / page_;
    Pages all(static_cast<size_t>(pages));
    std::iota(all.begin(), all.end(), 0);
    if (t <= setup_.tokens.budget || layer < options_.dense_layers) return all;
    Head& state = heads_[{layer, head}];
    bool now = true;
    if (state.started) {
      double c = 0;
      for (int64_t g = 0; g < q.shape(0); ++g) {
        c += cosine(q[g], View<const float, 1>(state.query.data() + g * setup_.dim, setup_.dim));
      }
      now = c / static_cast<double>(q.shape(0)) < options_.tau;
      ++stats.corrections_tested;
      if (now) ++stats.drifted_by_layer[static_cast<size_t>(layer)];
    } else if (!crossed_prompt_) {
      // What fitted stands where it stood.
      for (size_t i = 0; i < k_; ++i) state.resident.insert(static_cast<int32_t>(sink_ + i));
    }
    if (now) take(state, select(plain, layer, head, q, t), &stats.misses_before);
    Pages result(all.begin(), all.begin() + sink_);
    for (const int32_t page : state.selected) {
      if (page < first_window_page(t)) result.push_back(page);
    }
    for (int64_t page = first_window_page(t); page < pages; ++page) {
      result.push_back(static_cast<int32_t>(page));
    }
    // After attention: for the next step, unless this step's own query chose already.
    if (!now) take(state, select(plain, layer, head, q, t + 1), &stats.misses_after);
    state.started = true;
    state.query.assign(q.flat().begin(), q.flat().end());
    return result;
  }

  void set_prompt(int64_t prompt) { crossed_prompt_ = prompt > setup_.tokens.budget; }

 private:
  // Candidates are complete, so their keys no longer change.
  const Box& box_of(const KvPool& pool, int layer, int head, int32_t page) {
    const auto key = std::make_tuple(layer, head, page);
    const auto found = boxes_.find(key);
    if (found != boxes_.end()) return found->second;
    return boxes_[key] = make_box(pool, page, head, options_.cuboid);
  }

  struct Head {
    bool started = false;
    std::vector<float> query;
    Pages selected;
    std::set<int32_t> resident;
  };

  void take(Head& head, Pages pages, uint64_t* misses) {
    ++stats.selections;
    stats.pages_selected += pages.size();
    for (const int32_t page : pages) {
      if (!options_.recalls || head.resident.count(page)) {
        ++stats.hits;
      } else {
        ++*misses;
        stats.bytes_recalled +=
            KvShape{setup_.kv_heads, setup_.dim, setup_.page, setup_.dtype}.head_page_bytes();
      }
    }
    head.resident = {pages.begin(), pages.end()};
    head.selected = std::move(pages);
  }

  Scenario setup_;
  NaiveOptions options_;
  int64_t page_;
  int64_t sink_;
  int64_t window_;
  size_t k_;
  bool crossed_prompt_ = false;
  std::map<std::pair<int, int>, Head> heads_;
  std::map<std::tuple<int, int, int32_t>, Box> boxes_;
};

}  // namespace

NaiveResult run_naive(const Scenario& setup, const NaiveOptions& options, uint64_t seed,
                      int64_t prompt, int steps) {
  Driver driver(setup, "full");
  const auto sequence = driver.make_sequence(seed);
  Naive naive(setup, options);
  naive.set_prompt(prompt);
  std::vector<Pages> pages(static_cast<size_t>(setup.kv_heads));
  driver.on_rows = [&](LayerStep& step, std::span<TestSequence* const> batch) {
    const int64_t t = batch[0]->cache.tokens() + 1;
    for (int head = 0; head < setup.kv_heads; ++head) {
      Pages& chosen = pages[static_cast<size_t>(head)];
      chosen = naive.attended(batch[0]->plain, step.layer, head, step.q[head], t);
      step.rows[static_cast<size_t>(head)] = {batch[0]->plain.pool(step.layer), head, chosen,
                                              static_cast<int>((t - 1) % setup.page) + 1};
    }
  };
  driver.prefill(*sequence, prompt);
  sequence->outputs.clear();
  driver.decode(*sequence, steps);
  return {std::move(sequence->outputs), naive.stats};
}

}  // namespace freekv::invariants
