// Embedding, norms and activations of a decode batch. f32 in and out, row-major.
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

/// out = x / sqrt(mean(x^2) + eps) * weight, per row of x [n, D]; weight [D] f32.
struct RmsNormParams {
  const float* x = nullptr;
  const float* weight = nullptr;
  float* out = nullptr;
  int32_t n = 0;
  int32_t hidden = 0;
  float eps = 0;
};
void rms_norm(const RmsNormParams& params, cudaStream_t stream);

/// out [n, F] = silu(gate) * up, from gate_up [n, 2F] with the gates in front.
struct SwigluParams {
  const float* gate_up = nullptr;
  float* out = nullptr;
  int32_t n = 0;
  int32_t ffn = 0;
};
void swiglu(const SwigluParams& params, cudaStream_t stream);

/// The end of a step: tokens[sequence[b]] += 1 for all b.
struct AdvanceParams {
  const int32_t* sequence = nullptr;
  int64_t* tokens = nullptr;
  int32_t n = 0;
};
void advance(const AdvanceParams& params, cudaStream_t stream);

}  // namespace freekv::cuda
