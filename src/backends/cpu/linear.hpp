// Linear layers of a decode batch: bound by reading the weights, which happens once, in the dtype
// they are stored in. Contract: Backend in backend.hpp.
#pragma once

#include "backends/activations.hpp"
#include "backends/backend.hpp"
#include "backends/cpu/linear_int8.hpp"
#include "device/buffer.hpp"

namespace freekv::cpu {

struct LinearScratch {
  QuantizedRows activations;
  Buffer weights;  // a strip of rows as f32 for each worker: types with no dot product of their own

  void reserve(ExecutionContext& ctx, const BackendLimits& limits);
};

void linear(ExecutionContext& ctx, LinearScratch& scratch, Activations activations,
            View<const float, 2> x, const WeightView& weight, bool accumulate, View<float, 2> out);

/// Weight rows taken through all rows of x at a time, so that they come from memory once.
inline constexpr int64_t kWeightStrip = 8;
/// Rows of weights to a part of the work: a smaller one is read before another worker has woken.
int64_t linear_grain(const WeightView& weight);

}  // namespace freekv::cpu
