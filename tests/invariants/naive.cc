#include "naive.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

#include "naive_page.hpp"

namespace freekv::invariants {
namespace {

using Pages = std::vector<int32_t>;

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
  struct Head {
    bool started = false;
    std::vector<float> query;
    Pages selected;
    std::set<int32_t> resident;

    // Of correction by what is missing, where it matters which page leaves: the slot that is empty,
    // or longest unused, or lowest.
    struct Slot {
      int32_t page = -1;
      int64_t used = 0;
    };
    std::vector<Slot> slots;
    int64_t clock = 0;

    bool holds(int32_t page) const {
      return std::any_of(slots.begin(), slots.end(), [&](const Slot& s) { return s.page == page; });
    }
    void bring(const Pages& pages) {
      std::vector<size_t> victims;
      for (size_t i = 0; i < slots.size(); ++i) {
        if (std::count(pages.begin(), pages.end(), slots[i].page) == 0) victims.push_back(i);
      }
      std::stable_sort(victims.begin(), victims.end(), [&](size_t a, size_t b) {
        if ((slots[a].page < 0) != (slots[b].page < 0)) return slots[a].page < 0;
        return slots[a].used < slots[b].used;
      });
      size_t next = 0;
      for (const int32_t page : pages) {
        if (!holds(page)) slots[victims[next++]].page = page;
      }
      ++clock;
      for (Slot& slot : slots) {
        if (std::count(pages.begin(), pages.end(), slot.page) != 0) slot.used = clock;
      }
    }
  };

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

  // The attention mass of one query head on each page so far, before it is divided by the sum.
  std::vector<double> masses(const KvPool& pool, int layer, int head, View<const float, 1> q,
                             int64_t t) {
    const int64_t pages = (t + page_ - 1) / page_;
    std::vector<double> mass;
    for (int64_t j = 0; j < pages; ++j) {
      const bool candidate = j >= sink_ && j < first_window_page(t);
      const auto page = static_cast<int32_t>(j);
      mass.push_back(
          candidate && options_.mass == NaiveMass::kKey2
              ? two_bits_of(pool, layer, head, page).mass(q)
              : exact_mass(pool, page, head, q, static_cast<int>(std::min(page_, t - j * page_))));
    }
    return mass;
  }

  // The share of attention that each page so far has, the mean over the group.
  std::vector<double> page_mass(const KvPool& pool, int layer, int head, View<const float, 2> q,
                                int64_t t) {
    std::vector<double> mean(static_cast<size_t>((t + page_ - 1) / page_));
    for (int64_t g = 0; g < q.shape(0); ++g) {
      const std::vector<double> mass = masses(pool, layer, head, q[g], t);
      const double all = std::accumulate(mass.begin(), mass.end(), 0.0);
      for (size_t j = 0; j < mass.size(); ++j) {
        mean[j] += mass[j] / all / static_cast<double>(q.shape(0));
      }
    }
    return mean;
  }

  // Attention's output with the pages that were not attended to, each with its estimated mass and
  // the mean of its values.
  void add_unattended(const KvPool& pool, int layer, int head, View<const float, 2> q, int64_t t,
                      const Pages& attended, View<float, 2> out) {
    for (int64_t g = 0; g < q.shape(0); ++g) {
      const std::vector<double> mass = masses(pool, layer, head, q[g], t);
      std::vector<double> rest(static_cast<size_t>(setup_.dim));
      double found = 0, left = 0;
      for (size_t j = 0; j < mass.size(); ++j) {
        const auto page = static_cast<int32_t>(j);
        if (std::count(attended.begin(), attended.end(), page) != 0) {
          found += exact_mass(pool, page, head, q[g],
                              static_cast<int>(std::min(page_, t - page * page_)));
          continue;
        }
        left += mass[j];
        for (size_t e = 0; e < rest.size(); ++e) {
          double sum = 0;
          for (int u = 0; u < page_; ++u) {
            const std::byte* value =
                pool.values(page, head) + static_cast<size_t>(u) * pool.token_stride();
            sum += load_element(pool.shape.dtype, value, static_cast<int64_t>(e));
          }
          rest[e] += mass[j] * sum / static_cast<double>(page_);
        }
      }
      for (size_t e = 0; e < rest.size(); ++e) {
        float& x = out[g][static_cast<int64_t>(e)];
        x = static_cast<float>((found * x + rest[e]) / (found + left));
      }
    }
  }

  // The k best candidates by what they are `pooled` to, from the first candidate on.
  Pages best(const std::vector<double>& pooled) const {
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

  Pages select_by_mass(const std::vector<double>& mass, int64_t t) const {
    return best({mass.begin() + sink_, mass.begin() + first_window_page(t)});
  }

  Pages select(const PlainCopy& plain, int layer, int head, View<const float, 2> q, int64_t t) {
    const KvPool& pool = plain.pool(layer);
    if (options_.mass != NaiveMass::kNone) {
      return select_by_mass(page_mass(pool, layer, head, q, t), t);
    }
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
    return best(pooled);
  }

  // Pages to attend to in this step, in order.
  Pages attended(const PlainCopy& plain, int layer, int head, View<const float, 2> q, int64_t t) {
    const int64_t pages = (t + page_ - 1) / page_;
    Pages all(static_cast<size_t>(pages));
    std::iota(all.begin(), all.end(), 0);
    if (t <= setup_.tokens.budget || layer < options_.dense_layers) return all;
    Head& state = heads_[{layer, head}];
    if (options_.epsilon >= 0) return covered(state, plain, layer, head, q, t);
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

  // The same by section 6: attention waits for the heaviest missing pages.
  Pages covered(Head& state, const PlainCopy& plain, int layer, int head, View<const float, 2> q,
                int64_t t) {
    if (state.slots.empty()) {
      state.slots.resize(static_cast<size_t>(std::ceil(options_.resident * k_)));
      for (size_t i = 0; i < k_ && !crossed_prompt_; ++i) {
        state.slots[i].page = static_cast<int32_t>(sink_ + i);
      }
    }
    const std::vector<double> mass = page_mass(plain.pool(layer), layer, head, q, t);
    const auto heavier = [&](int32_t a, int32_t b) {
      return mass[static_cast<size_t>(a)] > mass[static_cast<size_t>(b)];
    };
    const Pages selected = select_by_mass(mass, t);
    Pages missing, present;
    for (const int32_t page : selected) {
      (state.holds(page) ? present : missing).push_back(page);
    }
    std::stable_sort(missing.begin(), missing.end(), heavier);
    size_t recalled = missing.size();
    double left = 0;
    for (size_t i = missing.size(); i-- > 0; recalled = i) {
      left += mass[static_cast<size_t>(missing[i])];
      if (left >= options_.epsilon) break;
    }
    present.insert(present.end(), missing.begin(), missing.begin() + static_cast<long>(recalled));
    std::sort(present.begin(), present.end());
    state.bring(present);

    Pages attended;
    for (int64_t page = 0; page < (t + page_ - 1) / page_; ++page) {
      const auto j = static_cast<int32_t>(page);
      const bool chosen = std::count(selected.begin(), selected.end(), j) != 0 ||
                          std::count(state.selected.begin(), state.selected.end(), j) != 0;
      if (page < sink_ || page >= first_window_page(t) || (chosen && state.holds(j))) {
        attended.push_back(j);
      }
    }
    double found = 0;
    for (const int32_t page : attended) found += mass[static_cast<size_t>(page)];
    stats.lost_mass_sum += 1 - found;
    ++stats.lost_mass_count;
    ++stats.selections;
    ++stats.corrections_tested;
    if (recalled > 0) ++stats.drifted_by_layer[static_cast<size_t>(layer)];
    stats.pages_selected += selected.size();
    stats.hits += selected.size() - missing.size();
    stats.misses_before += recalled;
    stats.misses_after += missing.size() - recalled;
    stats.bytes_recalled +=
        missing.size() *
        KvShape{setup_.kv_heads, setup_.dim, setup_.page, setup_.dtype}.head_page_bytes();
    if (recalled < missing.size()) state.bring(selected);
    state.selected = selected;
    return attended;
  }

  void set_prompt(int64_t prompt) { crossed_prompt_ = prompt > setup_.tokens.budget; }

 private:
  // Candidates are complete, so their keys no longer change.
  const TwoBitKeys& two_bits_of(const KvPool& pool, int layer, int head, int32_t page) {
    const auto key = std::make_tuple(layer, head, page);
    const auto found = two_bits_.find(key);
    if (found != two_bits_.end()) return found->second;
    return two_bits_[key] = TwoBitKeys(pool, page, head);
  }

  const Box& box_of(const KvPool& pool, int layer, int head, int32_t page) {
    const auto key = std::make_tuple(layer, head, page);
    const auto found = boxes_.find(key);
    if (found != boxes_.end()) return found->second;
    return boxes_[key] = make_box(pool, page, head, options_.cuboid);
  }

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
  std::map<std::tuple<int, int, int32_t>, TwoBitKeys> two_bits_;
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
  driver.on_layer_done = [&](LayerStep& step, std::span<TestSequence* const> batch) {
    if (!options.values) return;
    for (int head = 0; head < setup.kv_heads; ++head) {
      naive.add_unattended(batch[0]->plain.pool(step.layer), step.layer, head, step.q[head],
                           batch[0]->cache.tokens() + 1, pages[static_cast<size_t>(head)],
                           step.attended[head]);
    }
  };
  driver.prefill(*sequence, prompt);
  sequence->outputs.clear();
  driver.decode(*sequence, steps);
  return {std::move(sequence->outputs), naive.stats};
}

}  // namespace freekv::invariants
