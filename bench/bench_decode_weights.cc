// What a decode step reads of a large model's weights: the linear layers of one token, all of them
// in turn, so that none is still in the caches when its turn comes again. The model is
// Llama-3.2-1B's shape in random Q4_K with a Q6_K head, as llama.cpp's Q4_K_S files are mixed.
#include <cstdio>

#include "backends/cpu/linear.hpp"
#include "backends/reference/linear.hpp"
#include "machine_limits.hpp"
#include "op_bench.hpp"

namespace freekv::bench {
namespace {

constexpr int64_t kHidden = 2048, kFfn = 8192, kKvWidth = 512, kVocab = 128256;
constexpr int kLayers = 16;

// The matrices of a model in the order a step multiplies with them, in one allocation.
class Weights {
 public:
  Weights(DType layers, DType head) {
    for (int i = 0; i < kLayers; ++i) {
      for (const auto& [n, k] : {std::pair{kHidden, kHidden},
                                 {kKvWidth, kHidden},
                                 {kKvWidth, kHidden},
                                 {kHidden, kHidden},
                                 {kFfn, kHidden},
                                 {kFfn, kHidden},
                                 {kHidden, kFfn}}) {
        add(layers, n, k);
      }
    }
    add(head, kVocab, kHidden);
    memory_ = Buffer(bytes_);
    std::byte* next = memory_.data();
    uint32_t seed = 1;
    for (WeightView& matrix : matrices_) {
      const size_t bytes = static_cast<size_t>(matrix.rows) * matrix.stride();
      cases::random_blocks(matrix.dtype, {next, bytes}, seed++);
      matrix.data = next;
      next += bytes;
    }
  }
  std::span<const WeightView> matrices() const { return matrices_; }
  double bytes() const { return static_cast<double>(bytes_); }

 private:
  void add(DType dtype, int64_t rows, int64_t cols) {
    matrices_.push_back({nullptr, dtype, rows, cols});
    bytes_ += static_cast<size_t>(rows) * row_bytes(dtype, cols);
  }

  std::vector<WeightView> matrices_;
  size_t bytes_ = 0;
  Buffer memory_;
};

class Step {
 public:
  Step(const Weights& weights, Activations activations, int threads)
      : weights_(weights),
        activations_(activations),
        ctx_(threads),
        x_(cases::random_floats(kFfn, 1)),
        out_(kVocab) {
    BackendLimits limits;
    limits.max_cols = kFfn;
    limits.max_weight_rows = kVocab;
    scratch_.reserve(ctx_, limits);
    reference_.reserve(ctx_, limits);
  }
  void run() {
    for (const WeightView& matrix : weights_.matrices()) multiply(matrix);
  }
  /// The first and the last rows of every matrix: the reference would take minutes for all.
  bool agrees_with_reference(benchmark::State& state) {
    constexpr int64_t kSome = 24;
    std::vector<float> expected(kSome);
    for (const WeightView& matrix : weights_.matrices()) {
      std::ranges::fill(out_, std::numeric_limits<float>::quiet_NaN());
      multiply(matrix);
      for (const int64_t first : {int64_t{0}, matrix.rows - kSome}) {
        const WeightView part{matrix.row(first), matrix.dtype, kSome, matrix.cols};
        reference::linear(ctx_, reference_, activations_, x(matrix), part, false,
                          View<float, 2>(expected.data(), 1, kSome));
        if (!agrees(state, std::span(out_).subspan(static_cast<size_t>(first), kSome), expected,
                    2e-5)) {
          return false;
        }
      }
    }
    return true;
  }
  ExecutionContext& context() { return ctx_; }

 private:
  void multiply(const WeightView& matrix) {
    cpu::linear(ctx_, scratch_, activations_, x(matrix), matrix, false, out(matrix));
  }
  View<const float, 2> x(const WeightView& matrix) const {
    return View<const float, 2>(x_.data(), 1, matrix.cols);
  }
  View<float, 2> out(const WeightView& matrix) {
    return View<float, 2>(out_.data(), 1, matrix.rows);
  }

  const Weights& weights_;
  Activations activations_;
  ExecutionContext ctx_;
  std::vector<float> x_;
  std::vector<float> out_;
  cpu::LinearScratch scratch_;
  reference::LinearScratch reference_;
};

void decode(benchmark::State& state, DType layers, DType head, Activations activations,
            int threads) {
  const Weights weights(layers, head);
  Step step(weights, activations, threads);
  if (!step.agrees_with_reference(state)) return;
  double limit = 0;
  const double seconds = best_iteration(
      state, [&] { step.run(); }, [&] { limit = std::max(limit, read_bandwidth(step.context())); });
  state.counters["GB"] = weights.bytes() * 1e-9;
  state.counters["ms/token"] = seconds * 1e3;
  state.counters["GB/s"] = weights.bytes() / seconds * 1e-9;
  state.counters["read_GB/s"] = limit * 1e-9;
  state.counters["share_of_read_bandwidth"] = weights.bytes() / seconds / limit;
}

}  // namespace

void add_benchmarks() {
  struct Mix {
    DType layers, head;
    Activations activations;
  };
  constexpr Mix kMixes[] = {{DType::kQ4_K, DType::kQ6_K, Activations::kAuto},
                            {DType::kQ5_K, DType::kQ6_K, Activations::kAuto},
                            {DType::kQ4_0, DType::kQ6_K, Activations::kAuto},
                            {DType::kQ8_0, DType::kQ8_0, Activations::kF32},
                            {DType::kQ8_0, DType::kQ8_0, Activations::kInt8}};
  for (const int threads : thread_counts()) {
    for (const Mix& mix : kMixes) {
      const bool int8 = takes_int8(mix.activations, mix.layers);
      const std::string name = "decode_weights/1B/" + std::string(dtype_name(mix.layers)) + "+" +
                               std::string(dtype_name(mix.head)) + (int8 ? "/int8" : "/f32") +
                               "/threads:" + std::to_string(threads);
      add_benchmark(name, 1.0, benchmark::kMillisecond, decode, mix.layers, mix.head,
                    mix.activations, threads);
    }
  }
}

}  // namespace freekv::bench
