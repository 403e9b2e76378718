// Linear layers of the demo model and of one large layer: the decode form against the bandwidth
// with which this machine reads memory, the prefill form against its best BLAS in f32.
#include "backends/cpu/linear.hpp"

#include <map>

#include "backends/cpu/linear_prefill.hpp"
#include "backends/reference/linear.hpp"
#include "machine_limits.hpp"
#include "op_bench.hpp"

namespace freekv::bench {
namespace {

struct Shape {
  const char* name;
  int64_t n, k;
};
constexpr Shape kShapes[] = {{"q", 512, 384},        {"kv", 128, 384},    {"o", 384, 512},
                             {"gate_up", 1024, 384}, {"down", 384, 1024}, {"head", 4096, 384},
                             {"large", 4096, 4096}};

class Layer {
 public:
  Layer(DType dtype, const Shape& shape, int64_t rows, int threads)
      : ctx_(threads),
        weight_(dtype, shape.n, shape.k, 1),
        x_(cases::random_floats(rows * shape.k, 2)),
        out_(static_cast<size_t>(rows * shape.n)),
        rows_(rows),
        shape_(shape) {
    BackendLimits limits;
    limits.max_rows = rows;
    limits.max_cols = shape.k;
    limits.max_weight_rows = shape.n;
    decode_.reserve(ctx_, limits);
    prefill_.reserve(ctx_, limits);
    reference_.reserve(ctx_, limits);
  }
  void decode(Activations activations) {
    cpu::linear(ctx_, decode_, activations, x(rows_), weight_.view(), false, out(rows_));
  }
  void prefill() {
    cpu::linear_prefill(ctx_, prefill_, x(rows_), weight_.view(), false, out(rows_));
  }
  /// The first rows of the output are compared: the reference would take minutes for all.
  bool agrees_with_reference(benchmark::State& state, Activations activations) {
    const int64_t some = std::min<int64_t>(rows_, 7);
    const std::vector<float> actual(out_.begin(), out_.begin() + some * shape_.n);
    reference::linear(ctx_, reference_, activations, x(some), weight_.view(), false, out(some));
    return agrees(state, actual, std::span(out_).first(actual.size()), 2e-5);
  }
  double bytes() const { return static_cast<double>(weight_.bytes()); }
  double flops() const {
    return 2.0 * static_cast<double>(rows_) * static_cast<double>(shape_.n * shape_.k);
  }
  ExecutionContext& context() { return ctx_; }

 private:
  View<const float, 2> x(int64_t rows) const {
    return View<const float, 2>(x_.data(), rows, shape_.k);
  }
  View<float, 2> out(int64_t rows) { return View<float, 2>(out_.data(), rows, shape_.n); }

  ExecutionContext ctx_;
  cases::Matrix weight_;
  std::vector<float> x_;
  std::vector<float> out_;
  int64_t rows_;
  Shape shape_;
  cpu::LinearScratch decode_;
  cpu::LinearPrefillScratch prefill_;
  reference::LinearScratch reference_;
};

// Measured once for each number of threads: it takes half a second.
double bandwidth(ExecutionContext& ctx) {
  static std::map<int, double> measured;
  const auto [entry, added] = measured.try_emplace(ctx.threads());
  if (added) entry->second = read_bandwidth(ctx);
  return entry->second;
}

void decode(benchmark::State& state, DType dtype, Shape shape, int64_t rows, int threads,
            Activations activations) {
  Layer layer(dtype, shape, rows, threads);
  layer.decode(activations);
  if (!layer.agrees_with_reference(state, activations)) return;
  const double limit = bandwidth(layer.context());
  const double seconds = best_iteration(state, [&] { layer.decode(activations); });
  state.counters["GB/s"] = layer.bytes() / seconds * 1e-9;
  // Above 1 where the weights stay in the caches, as a small layer's do.
  state.counters["share_of_read_bandwidth"] = layer.bytes() / seconds / limit;
}

void prefill(benchmark::State& state, DType dtype, Shape shape, int64_t rows, int threads) {
  Layer layer(dtype, shape, rows, threads);
  layer.prefill();
  if (!layer.agrees_with_reference(state, Activations::kF32)) return;
  GemmYardstick yardstick(threads, rows, shape.n, shape.k);
  const double seconds = best_iteration(
      state, [&] { layer.prefill(); }, [&] { yardstick.pass(); });
  const GemmRate& limit = yardstick.rate();
  state.SetLabel("against " + limit.library);
  state.counters["GFLOP/s"] = layer.flops() / seconds * 1e-9;
  state.counters["best_blas_GFLOP/s"] = limit.flops * 1e-9;
  if (limit.flops > 0) state.counters["share_of_best_blas"] = layer.flops() / seconds / limit.flops;
}

}  // namespace

void add_benchmarks() {
  for (const int threads : thread_counts()) {
    for (const Shape& shape : kShapes) {
      for (const DType dtype : cases::kWeightTypes) {
        if (shape.k % dtype_info(dtype).block_values != 0) continue;
        const auto add = [&](const char* form, int64_t rows, auto* body, auto... arguments) {
          const std::string name =
              std::string(form) + "/" + shape.name + "/" + std::string(dtype_name(dtype)) +
              "/rows:" + std::to_string(rows) + "/threads:" + std::to_string(threads);
          add_benchmark(name, 0.2, benchmark::kMicrosecond, body, dtype, shape, rows, threads,
                        arguments...);
        };
        for (const int64_t rows : {1, 4}) {
          add("linear", rows, decode, Activations::kF32);
          if (takes_int8(Activations::kInt8, dtype)) {
            add("linear_int8", rows, decode, Activations::kInt8);
          }
        }
        for (const int64_t rows : {512, 2048}) add("linear_prefill", rows, prefill);
      }
    }
  }
}

}  // namespace freekv::bench
