// Scalar reference of linear layers. Contracts: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"
#include "device/buffer.hpp"

namespace freekv::reference {

/// One weight row as f32 per worker.
struct LinearScratch {
  Buffer rows;

  void reserve(ExecutionContext& ctx, const BackendLimits& limits);
};

/// Backend::linear() and linear_prefill(): the reference needs no second form.
void linear(ExecutionContext& ctx, LinearScratch& scratch, View<const float, 2> x,
            const WeightView& weight, bool accumulate, View<float, 2> out);

}  // namespace freekv::reference
