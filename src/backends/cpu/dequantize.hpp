// Weights of any dtype as f32, for prefill's GEMM and the embedding.
#pragma once

#include <span>

#include "backends/tensors.hpp"

namespace freekv::cpu {

/// out = values `first` ... of weight row `row`, to the bits of load_element(); `first` is a
/// multiple of 32.
void dequantize(const WeightView& weight, int64_t row, int64_t first, std::span<float> out);

}  // namespace freekv::cpu
