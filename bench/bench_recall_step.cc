// The mechanisms of recall behind a decode step: per layer, workers read weights, and the misses of
// the layer travel until the layer's turn in the next step. What counts is the time a step gets
// longer by, beside a step without recall and one whose workers copy the misses themselves.
#include <fmt/format.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <random>

#include "kvcache/host_tier.hpp"
#include "kvcache/recall.hpp"
#include "op_bench.hpp"

namespace freekv::bench {
namespace {

constexpr int kLayers = 6;
constexpr int32_t kPages = 2048;  // 64K tokens
constexpr int kSlots = 64;
constexpr size_t kWeightBytes = size_t{2} << 20;  // of one layer: the demo model's in Q8_0

enum class Mode { kNone, kWorkers, kGather, kStreamed };

const char* mode_name(Mode mode) {
  switch (mode) {
    case Mode::kNone:
      return "none";
    case Mode::kWorkers:
      return "by_workers";
    case Mode::kGather:
      return "gather";
    case Mode::kStreamed:
      return "streamed";
  }
  return "";
}

struct Layer {
  Buffer weights{kWeightBytes};
  HostTier slow;
  Buffer fast_memory;
  KvPool fast;
  RecallJob job;

  Layer(Backend& backend, const KvShape& shape, RecallMechanism mechanism)
      : slow(backend, shape, kPages),
        fast_memory(shape.slot_bytes() * kSlots),
        fast{fast_memory.data(), shape, KvLayout::kNHD, kSlots},
        job(backend, slow, fast, mechanism, kSlots) {
    std::memset(weights.data(), 1, kWeightBytes);
    auto* words = reinterpret_cast<uint64_t*>(slow.pool().data);
    for (size_t i = 0; i < shape.slot_bytes() * kPages / 8; ++i) {
      words[i] = i * 0x9E3779B97F4A7C15u;
    }
  }
};

bool holds(const Layer& layer, const RecallItem& item) {
  const KvPool slow = const_cast<HostTier&>(layer.slow).pool();
  const size_t bytes = slow.shape.token_bytes();
  for (int t = 0; t < slow.shape.page; ++t) {
    const auto token = static_cast<size_t>(t);
    if (std::memcmp(slow.values(item.page, item.head) + token * slow.token_stride(),
                    layer.fast.values(item.slot, item.head) + token * layer.fast.token_stride(),
                    bytes) != 0) {
      return false;
    }
  }
  return true;
}

void run(benchmark::State& state, const KvShape& shape, Mode mode, int misses, int threads) {
  const auto backend = make_cpu_backend();
  const RecallMechanism mechanism =
      mode == Mode::kStreamed ? RecallMechanism::kStreamed : RecallMechanism::kGather;
  RecallEngine engine;
  engine.prepare(shape, mechanism);
  ExecutionContext ctx(threads);
  std::vector<std::unique_ptr<Layer>> layers;
  for (int i = 0; i < kLayers; ++i) {
    layers.push_back(std::make_unique<Layer>(*backend, shape, mechanism));
  }
  std::mt19937 random(1);
  std::vector<RecallItem> items(static_cast<size_t>(misses));
  std::atomic<uint64_t> sink{0};
  uint64_t waited = 0;
  const auto read_weights = [&](const Layer& layer) {
    ctx.pool().parallel_for(kWeightBytes / 8, 8, [&](int64_t begin, int64_t end, int) {
      const auto* words = reinterpret_cast<const uint64_t*>(layer.weights.data());
      sink += std::accumulate(words + begin, words + end, uint64_t{0});
    });
  };
  const auto step = [&] {
    for (const auto& layer : layers) {
      waited += engine.wait(ctx, layer->job);
      read_weights(*layer);
      int32_t slot = 0;
      for (RecallItem& item : items) {
        item = {static_cast<int32_t>(random() % static_cast<unsigned>(shape.heads)),
                static_cast<int32_t>(random() % kPages), slot++};
      }
      if (mode == Mode::kWorkers) {
        ctx.pool().parallel_for(misses, 1, [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) {
            const RecallItem& item = items[static_cast<size_t>(i)];
            layer->slow.load(item.page, item.head, layer->fast, item.slot);
          }
        });
      } else if (mode != Mode::kNone) {
        for (const RecallItem& item : items) layer->job.add(item);
        engine.submit(layer->job);
      }
    }
  };
  step();
  if (mode != Mode::kNone) {
    for (const auto& layer : layers) engine.wait(ctx, layer->job);
    for (const RecallItem& item : items) {
      if (holds(*layers.back(), item)) continue;
      state.SkipWithError("a page was not recalled: not timed");
      return;
    }
  }
  waited = 0;
  const double seconds = best_iteration(state, step);
  state.counters["us/step"] = seconds * 1e6;
  state.counters["waited_us/step"] =
      static_cast<double>(waited) * 1e-3 / static_cast<double>(state.iterations());
  for (const auto& layer : layers) engine.wait(ctx, layer->job);
}

}  // namespace

void add_benchmarks() {
  const KvShape demo{2, 64, 32, DType::kF16};
  const KvShape large{8, 128, 32, DType::kBF16};
  for (const KvShape& shape : {demo, large}) {
    for (const int misses : {2, 8, 32}) {
      for (const int threads : thread_counts()) {
        for (const Mode mode : {Mode::kNone, Mode::kWorkers, Mode::kGather, Mode::kStreamed}) {
          const std::string name =
              fmt::format("recall_step/{}/page_bytes:{}/misses_per_layer:{}/threads:{}",
                          mode_name(mode), shape.head_page_bytes(), misses, threads);
          add_benchmark(name, 0.3, benchmark::kMicrosecond, run, shape, mode, misses, threads);
        }
      }
    }
  }
}

}  // namespace freekv::bench
