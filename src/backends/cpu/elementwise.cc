#include "backends/cpu/elementwise.hpp"

#include <algorithm>
#include <cmath>

#include "backends/cpu/dequantize.hpp"
#include "backends/projection_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/elementwise.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/exp2_inl.hpp"
#include "backends/cpu/load_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

void rms_norm_row(const float* x, const float* weight, size_t n, float eps, float* out) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  // Two chains, since one would wait on its own additions.
  VF even = hn::Zero(d);
  VF odd = hn::Zero(d);
  size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const VF a = hn::LoadU(d, x + i);
    const VF b = hn::LoadU(d, x + i + lanes);
    even = hn::MulAdd(a, a, even);
    odd = hn::MulAdd(b, b, odd);
  }
  float squares = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  for (; i < n; ++i) squares += x[i] * x[i];
  const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
  const VF scale = hn::Set(d, inverse);
  i = 0;
  for (; i + lanes <= n; i += lanes) {
    const VF scaled = hn::Mul(hn::LoadU(d, x + i), scale);
    hn::StoreU(hn::Mul(scaled, hn::LoadU(d, weight + i)), d, out + i);
  }
  for (; i < n; ++i) out[i] = x[i] * inverse * weight[i];
}

void add_bias_row(const float* bias, size_t n, float* x) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, bias + i)), d, x + i);
  }
  for (; i < n; ++i) x[i] += bias[i];
}

// One head; `half` pairs.
void rope_head(float* x, const float* cos, const float* sin, size_t half, RopeStyle style) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  const bool interleaved = style == RopeStyle::kInterleaved;
  size_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const VF c = hn::LoadU(d, cos + i);
    const VF s = hn::LoadU(d, sin + i);
    VF a;
    VF b;
    if (interleaved) {
      hn::LoadInterleaved2(d, x + 2 * i, a, b);
    } else {
      a = hn::LoadU(d, x + i);
      b = hn::LoadU(d, x + half + i);
    }
    const VF rotated_a = hn::NegMulAdd(b, s, hn::Mul(a, c));
    const VF rotated_b = hn::MulAdd(a, s, hn::Mul(b, c));
    if (interleaved) {
      hn::StoreInterleaved2(rotated_a, rotated_b, d, x + 2 * i);
    } else {
      hn::StoreU(rotated_a, d, x + i);
      hn::StoreU(rotated_b, d, x + half + i);
    }
  }
  for (; i < half; ++i) {
    float& a = x[interleaved ? 2 * i : i];
    float& b = x[interleaved ? 2 * i + 1 : half + i];
    const float rotated_a = a * cos[i] - b * sin[i];
    b = a * sin[i] + b * cos[i];
    a = rotated_a;
  }
}

void swiglu_range(const float* gate, const float* up, size_t n, float* out) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  const auto silu_times = [&](VF g, VF u) {
    const VF power = exp2(d, hn::Mul(g, hn::Set(d, -kLog2E)));
    return hn::Mul(hn::Div(g, hn::Add(hn::Set(d, 1.0f), power)), u);
  };
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(silu_times(hn::LoadU(d, gate + i), hn::LoadU(d, up + i)), d, out + i);
  }
  if (i < n) {
    HWY_ALIGN float tail[2][kBlock] = {};
    std::copy(gate + i, gate + n, tail[0]);
    std::copy(up + i, up + n, tail[1]);
    hn::Store(silu_times(hn::Load(d, tail[0]), hn::Load(d, tail[1])), d, tail[0]);
    std::copy_n(tail[0], n - i, out + i);
  }
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(rms_norm_row);
HWY_EXPORT(add_bias_row);
HWY_EXPORT(rope_head);
HWY_EXPORT(swiglu_range);

namespace {

// Rows of `n` values in a part worth waking a worker for: a decode step is some sixty operations
// of this kind, each done before a worker would have started.
int64_t row_grain(int64_t n) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, n)); }

}  // namespace

void embed(ExecutionContext& ctx, const WeightView& table, std::span<const int32_t> ids,
           View<float, 2> out) {
  check_embed(table, ids, out);
  const auto rows = [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      dequantize(table, ids[static_cast<size_t>(t)], 0, out[t].flat());
    }
  };
  ctx.pool().parallel_for(out.shape(0), row_grain(out.shape(1)), rows);
}

void rms_norm(ExecutionContext& ctx, View<const float, 2> x, View<const float, 1> weight, float eps,
              View<float, 2> out) {
  check_rms_norm(x, weight, out);
  const int64_t n = x.shape(1);
  ctx.pool().parallel_for(x.shape(0), row_grain(n), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      HWY_DYNAMIC_DISPATCH(rms_norm_row)
      (x[t].data(), weight.data(), static_cast<size_t>(n), eps, out[t].data());
    }
  });
}

void add_bias(ExecutionContext& ctx, View<const float, 1> bias, View<float, 2> x) {
  check_add_bias(bias, x);
  const int64_t n = x.shape(1);
  ctx.pool().parallel_for(x.shape(0), row_grain(n), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      HWY_DYNAMIC_DISPATCH(add_bias_row)(bias.data(), static_cast<size_t>(n), x[t].data());
    }
  });
}

void rope(ExecutionContext& ctx, View<float, 3> x, std::span<const int64_t> positions,
          const RopeTable& table, RopeStyle style) {
  check_rope(x, positions, table);
  const int64_t heads = x.shape(1);
  const int64_t d = x.shape(2);
  ctx.pool().parallel_for(x.shape(0), row_grain(heads * d), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t position = positions[static_cast<size_t>(t)];
      const float* cos = table.cos[position].data();
      const float* sin = table.sin[position].data();
      for (int64_t h = 0; h < heads; ++h) {
        HWY_DYNAMIC_DISPATCH(rope_head)
        (x[t][h].data(), cos, sin, static_cast<size_t>(d / 2), style);
      }
    }
  });
}

void swiglu(ExecutionContext& ctx, View<const float, 2> gate, View<const float, 2> up,
            View<float, 2> out) {
  check_swiglu(gate, up, out);
  // Cut by rows, so that what a vector holds is the same for any number of workers.
  const int64_t n = gate.shape(1);
  ctx.pool().parallel_for(gate.shape(0), row_grain(4 * n), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      HWY_DYNAMIC_DISPATCH(swiglu_range)
      (gate[t].data(), up[t].data(), static_cast<size_t>(n), out[t].data());
    }
  });
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
