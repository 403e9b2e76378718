// Recall between pools in RAM: copies of one head's page at random places of a slow tier that no
// cache holds, by one thread, as recall threads do it.
#include <fmt/format.h>

#include <cstring>

#include "backends/cpu/kv.hpp"
#include "backends/reference/kv.hpp"
#include "device/buffer.hpp"
#include "machine_limits.hpp"
#include "op_bench.hpp"

namespace freekv::bench {
namespace {

constexpr int64_t kCopies = 4096;

struct Case {
  KvShape shape;
  KvLayout from;
  KvLayout to;
};

const char* layout_name(KvLayout layout) { return layout == KvLayout::kNHD ? "NHD" : "HND"; }

KvPool pool_of(Buffer& memory, const KvShape& shape, KvLayout layout) {
  return {memory.data(), shape, layout, static_cast<int32_t>(memory.bytes() / shape.slot_bytes())};
}

void run(benchmark::State& state, Case c) {
  // A slow tier of 512 MiB; a fast tier of 4 MiB, the order of what a budget of 512 tokens takes.
  Buffer slow_memory((size_t{512} << 20) / c.shape.slot_bytes() * c.shape.slot_bytes());
  Buffer fast_memory((size_t{4} << 20) / c.shape.slot_bytes() * c.shape.slot_bytes());
  Buffer expected_memory(fast_memory.bytes());
  auto* words = reinterpret_cast<uint32_t*>(slow_memory.data());
  for (size_t i = 0; i < slow_memory.bytes() / 4; ++i) {
    words[i] = static_cast<uint32_t>(i * 2654435761u);
  }
  const bool recall = c.from == KvLayout::kHND;
  const KvPool slow = pool_of(slow_memory, c.shape, recall ? c.from : c.to);
  const KvPool fast = pool_of(fast_memory, c.shape, recall ? c.to : c.from);
  std::mt19937 generator(1);
  struct Copy {
    int32_t slow, fast;
    int head;
  };
  std::vector<Copy> copies(kCopies);
  for (Copy& copy : copies) {
    copy.slow = static_cast<int32_t>(generator() % static_cast<uint32_t>(slow.slots));
    copy.fast = static_cast<int32_t>(generator() % static_cast<uint32_t>(fast.slots));
    copy.head = static_cast<int>(generator() % static_cast<uint32_t>(c.shape.heads));
  }
  const auto move = [&](auto op, const KvPool& near) {
    for (const Copy& copy : copies) {
      if (recall) {
        op(slow, copy.slow, near, copy.fast, copy.head);
      } else {
        op(near, copy.fast, slow, copy.slow, copy.head);
      }
    }
  };
  if (recall) {
    move(cpu::copy_head_page, fast);
    move(reference::copy_head_page, pool_of(expected_memory, c.shape, c.to));
    if (std::memcmp(fast_memory.data(), expected_memory.data(), fast_memory.bytes()) != 0) {
      state.SkipWithError("differs from the reference: not timed");
      return;
    }
  }
  ExecutionContext ctx(1);
  const double limit = read_bandwidth(ctx);
  const double seconds = best_iteration(state, [&] { move(cpu::copy_head_page, fast); });
  const double bytes =
      static_cast<double>(kCopies) * static_cast<double>(c.shape.head_page_bytes());
  state.counters["us/page"] = seconds / kCopies * 1e6;
  state.counters["GB/s"] = bytes / seconds * 1e-9;
  state.counters["share_of_read_bandwidth"] = bytes / seconds / limit;
}

}  // namespace

void add_benchmarks() {
  const KvShape demo{2, 64, 32, DType::kF16};
  const KvShape large{8, 128, 32, DType::kBF16};
  for (const KvShape& shape : {demo, large}) {
    for (const auto& [from, to] :
         {std::pair{KvLayout::kHND, KvLayout::kNHD}, std::pair{KvLayout::kHND, KvLayout::kHND},
          std::pair{KvLayout::kNHD, KvLayout::kHND}}) {
      const std::string name =
          fmt::format("copy_head_page/{}_to_{}/kv_heads:{}/page_bytes:{}", layout_name(from),
                      layout_name(to), shape.heads, shape.head_page_bytes());
      add_benchmark(name, 0.2, benchmark::kMillisecond, run, Case{shape, from, to});
    }
  }
}

}  // namespace freekv::bench
