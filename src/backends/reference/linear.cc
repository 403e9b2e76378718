#include "backends/reference/linear.hpp"

#include "backends/projection_checks.hpp"

namespace freekv::reference {

void LinearScratch::reserve(ExecutionContext& ctx, const BackendLimits& limits) {
  rows = Buffer(static_cast<size_t>(ctx.threads()) * static_cast<size_t>(limits.max_cols) *
                sizeof(float));
}

void linear(ExecutionContext& ctx, LinearScratch& scratch, View<const float, 2> x,
            const WeightView& weight, bool accumulate, View<float, 2> out) {
  check_linear(x, weight, out);
  const int64_t cols = weight.cols;
  check_internal(static_cast<size_t>(ctx.threads() * cols) <= scratch.rows.as<float>().size(),
                 "a linear layer of {} columns, reserved {} bytes", cols, scratch.rows.bytes());
  ctx.pool().parallel_for(weight.rows, 1, [&](int64_t begin, int64_t end, int worker) {
    float* w = scratch.rows.as<float>().data() + worker * cols;
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t k = 0; k < cols; ++k) w[k] = load_element(weight.dtype, weight.row(n), k);
      for (int64_t t = 0; t < x.shape(0); ++t) {
        const float* row = x[t].data();
        double sum = accumulate ? static_cast<double>(out[t][n]) : 0.0;
        for (int64_t k = 0; k < cols; ++k) sum += static_cast<double>(row[k]) * w[k];
        out[t][n] = static_cast<float>(sum);
      }
    }
  });
}

}  // namespace freekv::reference
