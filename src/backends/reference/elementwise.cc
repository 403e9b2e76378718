#include "backends/reference/elementwise.hpp"

#include <cmath>

#include "backends/projection_checks.hpp"

namespace freekv::reference {

void embed(ExecutionContext&, const WeightView& table, std::span<const int32_t> ids,
           View<float, 2> out) {
  check_embed(table, ids, out);
  for (int64_t t = 0; t < out.shape(0); ++t) {
    load_row(table.dtype, table.row(ids[static_cast<size_t>(t)]), out[t].flat());
  }
}

void rms_norm(ExecutionContext&, View<const float, 2> x, View<const float, 1> weight, float eps,
              View<float, 2> out) {
  check_rms_norm(x, weight, out);
  const int64_t n = x.shape(1);
  for (int64_t t = 0; t < x.shape(0); ++t) {
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[t][i]) * x[t][i];
    const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (int64_t i = 0; i < n; ++i) {
      out[t][i] = static_cast<float>(x[t][i] * inverse * weight[i]);
    }
  }
}

void add_bias(ExecutionContext&, View<const float, 1> bias, View<float, 2> x) {
  check_add_bias(bias, x);
  for (int64_t t = 0; t < x.shape(0); ++t) {
    for (int64_t i = 0; i < x.shape(1); ++i) x[t][i] += bias[i];
  }
}

void rope(ExecutionContext&, View<float, 3> x, std::span<const int64_t> positions,
          const RopeTable& table, RopeStyle style) {
  check_rope(x, positions, table);
  const int64_t half = x.shape(2) / 2;
  for (int64_t t = 0; t < x.shape(0); ++t) {
    const int64_t position = positions[static_cast<size_t>(t)];
    for (int64_t h = 0; h < x.shape(1); ++h) {
      View<float, 1> head = x[t][h];
      for (int64_t i = 0; i < half; ++i) {
        float& a = head[style == RopeStyle::kInterleaved ? 2 * i : i];
        float& b = head[style == RopeStyle::kInterleaved ? 2 * i + 1 : i + half];
        const double cos = table.cos[position][i];
        const double sin = table.sin[position][i];
        const double rotated_a = a * cos - b * sin;
        const double rotated_b = a * sin + b * cos;
        a = static_cast<float>(rotated_a);
        b = static_cast<float>(rotated_b);
      }
    }
  }
}

void swiglu(ExecutionContext&, View<const float, 2> gate, View<const float, 2> up,
            View<float, 2> out) {
  check_swiglu(gate, up, out);
  for (int64_t i = 0; i < gate.size(); ++i) {
    const double g = gate.data()[i];
    out.data()[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * up.data()[i]);
  }
}

}  // namespace freekv::reference
