// Matrix products of a decode batch: bound by reading the weights once.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace freekv::cuda {

/// out[t, n] (+)= x[t] . weight[n]; x [rows, K] f32, weight [N, K] bf16, out [rows, N] f32.
/// K is a multiple of 8, rows 1..kMaxGemvRows. Each row's result is the same to the bit whatever
/// the other rows are and however many.
///
/// What stands before and after these products in a layer is part of them, since a kernel of its
/// own would cost more than its work: with `norm` x is normed first, x / sqrt(mean(x^2) + eps) *
/// norm; with `gated` (which takes `norm` and neither bias nor accumulate) weight is [2N, K], gates
/// in front, and out[t, n] = silu(x[t] . weight[n]) * (x[t] . weight[N + n]).
struct GemvParams {
  const float* x = nullptr;
  const void* weight = nullptr;
  const float* bias = nullptr;  // [N], or null
  float* out = nullptr;
  int32_t rows = 0;
  int32_t n = 0;
  int32_t k = 0;
  bool accumulate = false;
  const float* norm = nullptr;  // [K], or null
  float norm_eps = 0;
  bool gated = false;
  /// On the device, zero since before this step's first product, for it is read before the kernel
  /// in front has ended: the rows of weight are taken as blocks come to them, so that one that
  /// comes late has less to do. Null: all have the same share.
  unsigned* taken = nullptr;
};
inline constexpr int kMaxGemvRows = 8;
void gemv(const GemvParams& params, cudaStream_t stream);

}  // namespace freekv::cuda
