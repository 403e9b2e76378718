// Linear layers of a prefill chunk: a GEMM whose weights become f32 one panel at a time, so that
// they stay in their stored form in memory. Contract: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"
#include "device/buffer.hpp"

namespace freekv::cpu {

/// Panels of weights as f32, a few per worker.
struct LinearPrefillScratch {
  Buffer panels;

  void reserve(ExecutionContext& ctx, const BackendLimits& limits);
};

void linear_prefill(ExecutionContext& ctx, LinearPrefillScratch& scratch, View<const float, 2> x,
                    const WeightView& weight, bool accumulate, View<float, 2> out);

}  // namespace freekv::cpu
