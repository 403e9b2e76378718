#include "backends/reference/linear.hpp"

#include "backends/projection_checks.hpp"

namespace freekv::reference {
namespace {

// Rows of x as what their 8 bits stand for, in f64, which holds that exactly.
std::span<const double> round_rows(LinearScratch& scratch, View<const float, 2> x, DType dtype) {
  const auto block = static_cast<size_t>(dtype_info(dtype).block_values);
  const auto cols = static_cast<size_t>(x.shape(1));
  check_internal(static_cast<size_t>(x.size()) <= scratch.rounded.as<double>().size(),
                 "activations are [{}, {}], reserved {} bytes", x.shape(0), cols,
                 scratch.rounded.bytes());
  const auto q = scratch.q.as<int8_t>().first(cols);
  const auto scales = scratch.scales.as<float>().first(cols / block);
  for (int64_t t = 0; t < x.shape(0); ++t) {
    quantize_activations(x[t].flat(), block, q, scales);
    double* to = scratch.rounded.as<double>().data() + static_cast<size_t>(t) * cols;
    for (size_t k = 0; k < cols; ++k) to[k] = static_cast<double>(scales[k / block]) * q[k];
  }
  return scratch.rounded.as<double>().first(static_cast<size_t>(x.size()));
}

// value(t, k) is element k of row t of x.
template <typename Value>
void multiply(ExecutionContext& ctx, LinearScratch& scratch, const Value& value,
              const WeightView& weight, bool accumulate, View<float, 2> out) {
  const int64_t cols = weight.cols;
  check_internal(static_cast<size_t>(ctx.threads() * cols) <= scratch.weights.as<float>().size(),
                 "a linear layer of {} columns, reserved {} bytes", cols, scratch.weights.bytes());
  ctx.pool().parallel_for(weight.rows, 1, [&](int64_t begin, int64_t end, int worker) {
    float* w = scratch.weights.as<float>().data() + worker * cols;
    for (int64_t n = begin; n < end; ++n) {
      load_row(weight.dtype, weight.row(n), {w, static_cast<size_t>(cols)});
      for (int64_t t = 0; t < out.shape(0); ++t) {
        double sum = accumulate ? static_cast<double>(out[t][n]) : 0.0;
        for (int64_t k = 0; k < cols; ++k) sum += static_cast<double>(value(t, k)) * w[k];
        out[t][n] = static_cast<float>(sum);
      }
    }
  });
}

}  // namespace

void LinearScratch::reserve(ExecutionContext& ctx, const BackendLimits& limits) {
  const auto cols = static_cast<size_t>(limits.max_cols);
  weights = Buffer(static_cast<size_t>(ctx.threads()) * cols * sizeof(float));
  rounded = Buffer(static_cast<size_t>(limits.max_rows) * cols * sizeof(double));
  q = Buffer(cols);
  scales = Buffer(cols * sizeof(float));
}

void linear(ExecutionContext& ctx, LinearScratch& scratch, Activations activations,
            View<const float, 2> x, const WeightView& weight, bool accumulate, View<float, 2> out) {
  check_linear(x, weight, out);
  if (takes_int8(activations, weight.dtype)) {
    const std::span<const double> rounded = round_rows(scratch, x, weight.dtype);
    const auto value = [&](int64_t t, int64_t k) {
      return rounded[static_cast<size_t>(t * weight.cols + k)];
    };
    multiply(ctx, scratch, value, weight, accumulate, out);
  } else {
    const auto value = [&](int64_t t, int64_t k) { return x.data()[t * weight.cols + k]; };
    multiply(ctx, scratch, value, weight, accumulate, out);
  }
}

}  // namespace freekv::reference
