// Prefill attention of one chunk at growing contexts, against the best GEMM rate of the machine:
// the rate counts the products with K and V over the causal half, and nothing else.
#include "backends/cpu/prefill_attention.hpp"

#include "backends/reference/attend.hpp"
#include "machine_limits.hpp"
#include "op_bench.hpp"

namespace freekv::bench {
namespace {

struct Shape {
  int kv_heads, group, head_dim;
};
// The demo model, then the shapes of larger models' single KV heads.
constexpr Shape kShapes[] = {{2, 4, 64}, {1, 4, 128}, {1, 7, 128}, {1, 3, 80}, {1, 2, 256}};
constexpr int64_t kTokens = 512;

void prefill(benchmark::State& state, Shape shape, DType dtype, int64_t context, int threads) {
  const int64_t heads = static_cast<int64_t>(shape.kv_heads) * shape.group;
  const int64_t d = shape.head_dim;
  const int64_t position = context - kTokens;
  const cases::PagedKv kv({shape.kv_heads, shape.head_dim, 32, dtype}, KvLayout::kNHD, context, 1);
  const std::vector<float> q = cases::random_floats(kTokens * heads * d, 2);
  std::vector<float> out(q.size());
  ExecutionContext ctx(threads);
  BackendLimits limits;
  limits.heads = static_cast<int>(heads);
  limits.kv_heads = shape.kv_heads;
  limits.head_dim = shape.head_dim;
  cpu::PrefillAttentionScratch scratch;
  scratch.reserve(ctx, limits);
  const PrefillAttention params{View<const float, 3>(q.data(), kTokens, heads, d),
                                kv.pool(),
                                kv.slots(),
                                position,
                                1.0f / std::sqrt(static_cast<float>(d)),
                                View<float, 3>(out.data(), kTokens, heads, d)};
  cpu::prefill_attention(ctx, scratch, params);
  // The first, a middle and the last token: the reference would take minutes for all.
  std::vector<float> expected(static_cast<size_t>(d));
  for (const int64_t t : {int64_t{0}, kTokens / 2 - 1, kTokens - 1}) {
    for (int64_t h = 0; h < heads; ++h) {
      reference::attend(params.q[t][h].flat(), kv.pool(), static_cast<int>(h / shape.group),
                        kv.slots(), position + t + 1, params.scale, expected);
      if (!agrees(state, params.out[t][h].flat(), expected, 1e-4)) return;
    }
  }
  GemmYardstick yardstick(threads, 1024, 1024, 512);
  const double seconds = best_iteration(
      state, [&] { cpu::prefill_attention(ctx, scratch, params); }, [&] { yardstick.pass(); });
  const GemmRate& limit = yardstick.rate();
  const double pairs = static_cast<double>(kTokens) *
                       (static_cast<double>(position) + 0.5 * static_cast<double>(kTokens + 1));
  const double rate = 4.0 * pairs * static_cast<double>(heads * d) / seconds;
  state.SetLabel("against " + limit.library);
  state.counters["GFLOP/s"] = rate * 1e-9;
  state.counters["best_blas_GFLOP/s"] = limit.flops * 1e-9;
  if (limit.flops > 0) state.counters["share_of_best_blas"] = rate / limit.flops;
}

}  // namespace

void add_benchmarks() {
  for (const int threads : thread_counts()) {
    for (const Shape& shape : kShapes) {
      for (const int64_t context : {512, 2048, 16384, 65536}) {
        for (const DType dtype : {DType::kF16, DType::kBF16}) {
          const std::string name =
              "prefill_attention/M:" + std::to_string(shape.kv_heads) +
              "/G:" + std::to_string(shape.group) + "/d:" + std::to_string(shape.head_dim) + "/" +
              std::string(dtype_name(dtype)) + "/context:" + std::to_string(context) +
              "/threads:" + std::to_string(threads);
          add_benchmark(name, 0.3, benchmark::kMillisecond, prefill, shape, dtype, context,
                        threads);
        }
      }
    }
  }
}

}  // namespace freekv::bench
