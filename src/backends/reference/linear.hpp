// Scalar reference of linear layers. Contracts: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"
#include "device/buffer.hpp"

namespace freekv::reference {

struct LinearScratch {
  Buffer weights;  // a row as f32 for each worker
  Buffer rounded;  // rows of x as f64, after rounding to 8 bits
  Buffer q;        // one row in 8 bits
  Buffer scales;   // and its scales

  void reserve(ExecutionContext& ctx, const BackendLimits& limits);
};

/// Backend::linear(); with Activations::kF32 also linear_prefill().
void linear(ExecutionContext& ctx, LinearScratch& scratch, Activations activations,
            View<const float, 2> x, const WeightView& weight, bool accumulate, View<float, 2> out);

}  // namespace freekv::reference
