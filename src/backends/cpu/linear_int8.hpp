// Linear layers of a decode batch on quantised weights as they are: activations are rounded to 8
// bits once, products are summed in integers, and scaled once for each block.
#pragma once

#include <cstdint>
#include <span>

#include "backends/backend.hpp"
#include "device/buffer.hpp"

namespace freekv::cpu {

/// One row of activations: see ActivationScale.
struct ActivationRow {
  int8_t* q;
  float* scales;  // one for each block of the weights
  int16_t* sums;  // of q, 16 values each: what offsets and mins of weights multiply
};

/// The rows of a decode batch in 8 bits.
class QuantizedRows {
 public:
  void reserve(const BackendLimits& limits);

  /// Rounds x [T, K], in blocks of `block` values.
  void assign(ExecutionContext& ctx, View<const float, 2> x, int64_t block);
  int64_t rows() const { return rows_; }
  ActivationRow row(int64_t t);

 private:
  Buffer buffer_;
  int64_t max_rows_ = 0;
  int64_t max_cols_ = 0;
  int64_t rows_ = 0;
};

/// Backend::linear() for weights that takes_int8() is true of.
void linear_int8(ExecutionContext& ctx, QuantizedRows& scratch, View<const float, 2> x,
                 const WeightView& weight, bool accumulate, View<float, 2> out);

}  // namespace freekv::cpu
