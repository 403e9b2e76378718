// Decode attention over whole contexts, read from memory and not from caches, against the
// bandwidth with which this machine reads memory; and over the short lists that retrieval leaves.
#include "backends/cpu/decode_attention.hpp"

#include <fmt/format.h>

#include <cstring>
#include <numeric>

#include "backends/reference/decode_attention.hpp"
#include "device/buffer.hpp"
#include "machine_limits.hpp"
#include "op_bench.hpp"

namespace freekv::bench {
namespace {

struct Case {
  KvShape shape;
  int group;
  int64_t tokens;  // that each sequence attends to
  int64_t batch;
};

// As many layers as take 512 MiB: more than second-level caches hold, and mostly more than third.
class Layers {
 public:
  Layers(const Case& c, int threads) : case_(c), ctx_(threads) {
    const int64_t pages = (c.tokens + c.shape.page - 1) / c.shape.page;
    const auto layer_bytes = static_cast<size_t>(pages * c.batch) * c.shape.slot_bytes();
    const size_t layers = std::max<size_t>(1, (size_t{512} << 20) / layer_bytes);
    memory_ = Buffer(layers * layer_bytes);
    fill();
    slots_.resize(static_cast<size_t>(pages * c.batch));
    std::iota(slots_.begin(), slots_.end(), 0);
    for (size_t l = 0; l < layers; ++l) {
      const KvPool pool{memory_.data() + l * layer_bytes, c.shape, KvLayout::kNHD,
                        static_cast<int32_t>(slots_.size())};
      for (int64_t s = 0; s < c.batch; ++s) {
        const std::span<const int32_t> slots = std::span<const int32_t>(slots_).subspan(
            static_cast<size_t>(s * pages), static_cast<size_t>(pages));
        for (int head = 0; head < c.shape.heads; ++head) {
          rows_.push_back({pool, head, slots, static_cast<int>((c.tokens - 1) % c.shape.page + 1)});
        }
      }
    }
    layers_ = layers;
    BackendLimits limits;
    limits.max_rows = c.batch;
    limits.max_pages = pages;
    limits.heads = c.shape.heads * c.group;
    limits.kv_heads = c.shape.heads;
    limits.head_dim = c.shape.head_dim;
    limits.page = c.shape.page;
    scratch_.reserve(ctx_, limits);
    q_ = cases::random_floats(row_count() * c.group * c.shape.head_dim, 2);
    out_ = cases::poisoned(static_cast<int64_t>(q_.size()));
  }

  void attend(size_t layer) {
    cpu::decode_attention(ctx_, scratch_, q(), rows(layer), 0.125f, out(out_));
  }
  void attend_all() {
    for (size_t l = 0; l < layers_; ++l) attend(l);
  }
  bool agrees_with_reference(benchmark::State& state) {
    attend(0);
    std::vector<float> expected = cases::poisoned(static_cast<int64_t>(out_.size()));
    reference::decode_attention(ctx_, q(), rows(0), 0.125f, out(expected));
    return agrees(state, out_, expected, 5e-5);
  }
  double bytes() const {
    return static_cast<double>(layers_) * static_cast<double>(row_count() * case_.tokens) * 2 *
           static_cast<double>(case_.shape.token_bytes());
  }
  size_t layers() const { return layers_; }
  ExecutionContext& context() { return ctx_; }

 private:
  // Random values over a few MiB, repeated: conversion and arithmetic do not depend on them.
  void fill() {
    const size_t some = std::min<size_t>(memory_.bytes(), size_t{4} << 20);
    const DType dtype = case_.shape.dtype;
    const size_t n = some / row_bytes(dtype, 1);
    const std::vector<float> values = cases::random_floats(static_cast<int64_t>(n), 1);
    for (size_t i = 0; i < n; ++i) {
      store_element(dtype, memory_.data(), static_cast<int64_t>(i), values[i]);
    }
    for (size_t at = some; at < memory_.bytes(); at += some) {
      std::memcpy(memory_.data() + at, memory_.data(), std::min(some, memory_.bytes() - at));
    }
  }
  int64_t row_count() const { return case_.batch * case_.shape.heads; }
  std::span<const AttentionRow> rows(size_t layer) const {
    const auto n = static_cast<size_t>(row_count());
    return std::span<const AttentionRow>(rows_).subspan(layer * n, n);
  }
  View<const float, 3> q() const {
    return View<const float, 3>(q_.data(), row_count(), case_.group, case_.shape.head_dim);
  }
  View<float, 3> out(std::vector<float>& values) const {
    return View<float, 3>(values.data(), row_count(), case_.group, case_.shape.head_dim);
  }

  Case case_;
  ExecutionContext ctx_;
  Buffer memory_;
  std::vector<int32_t> slots_;
  std::vector<AttentionRow> rows_;
  size_t layers_ = 0;
  cpu::DecodeAttentionScratch scratch_;
  std::vector<float> q_;
  std::vector<float> out_;
};

void run(benchmark::State& state, Case c, int threads, bool compare) {
  Layers layers(c, threads);
  if (!layers.agrees_with_reference(state)) return;
  // Before and after, since a machine that others use too changes.
  const double before = compare ? read_bandwidth(layers.context()) : 0;
  const double seconds = best_iteration(state, [&] { layers.attend_all(); });
  state.counters["us/layer"] = seconds / static_cast<double>(layers.layers()) * 1e6;
  state.counters["GB/s"] = layers.bytes() / seconds * 1e-9;
  if (!compare) return;
  const double limit = std::max(before, read_bandwidth(layers.context()));
  state.counters["limit_GB/s"] = limit * 1e-9;
  state.counters["share"] = layers.bytes() / seconds / limit;
}

void add(const Case& c, int threads, bool compare) {
  const std::string name = fmt::format(
      "decode_attention/{}/kv_heads:{}/group:{}/dim:{}/page:{}/tokens:{}/batch:{}/threads:{}",
      dtype_name(c.shape.dtype), c.shape.heads, c.group, c.shape.head_dim, c.shape.page, c.tokens,
      c.batch, threads);
  add_benchmark(name, 0.5, benchmark::kMillisecond, run, c, threads, compare);
}

}  // namespace

void add_benchmarks() {
  const KvShape demo{2, 64, 32, DType::kF16};
  const KvShape large{8, 128, 32, DType::kBF16};
  for (const int threads : thread_counts()) {
    for (const int64_t tokens : {4096, 32768, 65536}) add({demo, 4, tokens, 1}, threads, true);
    add({large, 4, 16384, 1}, threads, false);
    // Budgets of 512 and 1280 tokens.
    for (const int64_t batch : {1, 8}) {
      for (const int64_t tokens : {512, 1280}) add({demo, 4, tokens, batch}, threads, false);
    }
  }
}

}  // namespace freekv::bench
