// What begins and ends a decode step. Norms and activations are part of the products (gemv.hpp).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace freekv::cuda {

/// out [n, D] = table [V, D] (bf16) at ids [n].
struct EmbedParams {
  const void* table = nullptr;
  const int32_t* ids = nullptr;
  float* out = nullptr;
  int32_t n = 0;
  int32_t hidden = 0;
};
void embed(const EmbedParams& params, cudaStream_t stream);

/// The end of a step: tokens[sequence[b]] += 1 for all b, and taken[i] = 0 for all i < products
/// (GemvParams::taken of the next step).
struct AdvanceParams {
  const int32_t* sequence = nullptr;
  int64_t* tokens = nullptr;
  int32_t n = 0;
  unsigned* taken = nullptr;
  int32_t products = 0;
};
void advance(const AdvanceParams& params, cudaStream_t stream);

}  // namespace freekv::cuda
