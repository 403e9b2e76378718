// What stands between prefill's matrix products: norms, rotation and activations of a chunk of n
// tokens. Rows are tokens; matrices are row-major.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/layout.hpp"
#include "backends/cuda/rope_append.hpp"

namespace freekv::cuda {

/// out [n, D] bf16 = x / sqrt(mean(x^2) + eps) * weight, per row of x [n, D] f32; weight [D] f32.
/// D is a multiple of 4.
struct NormRowsParams {
  const float* x = nullptr;
  const float* weight = nullptr;
  void* out = nullptr;
  int64_t n = 0;
  int32_t hidden = 0;
  float eps = 0;
};
void norm_rows(const NormRowsParams& params, cudaStream_t stream);

/// Row i stands at position first + i. Adds the bias, norms the heads of q and k where their
/// weights are given, rotates them, and writes all three in the KV type: q [n, H, e], and k and v
/// at their places in [.., M, e]. e = prefill_head_dim(d); what is behind the first d stays.
struct RotateRowsParams {
  KvGeometry kv;
  const float* qkv = nullptr;          // [n, (H + 2M) d]: q, then k, then v
  const float* bias = nullptr;         // [(H + 2M) d], or null
  const float* q_norm = nullptr;       // [d], or null
  const float* k_norm = nullptr;       // [d], or null
  const float* frequencies = nullptr;  // [d/2]; the angle is position * frequency in f32
  Rope rope = Rope::kInterleaved;
  float rope_scale = 1;  // of cosines and sines
  float norm_eps = 0;
  int64_t first = 0;
  int64_t n = 0;
  void* q = nullptr;
  void* key = nullptr;    // of position 0
  void* value = nullptr;  // of position 0
};
void rotate_rows(const RotateRowsParams& params, cudaStream_t stream);

/// out [n, F] bf16 = silu(gate) * up, from gate_up [n, 2F] bf16 with the gates in front. F is a
/// multiple of 8.
struct GateRowsParams {
  const void* gate_up = nullptr;
  void* out = nullptr;
  int64_t n = 0;
  int32_t ffn = 0;
};
void gate_rows(const GateRowsParams& params, cudaStream_t stream);

/// x [n, D] f32 += bias [D] in every row. D is a multiple of 4.
struct AddBiasParams {
  const float* bias = nullptr;
  float* x = nullptr;
  int64_t n = 0;
  int32_t hidden = 0;
};
void add_bias(const AddBiasParams& params, cudaStream_t stream);

/// out [rows, d] = the first d of every row of padded [rows, e], values of 2 bytes; both multiples
/// of 8.
struct DropPaddingParams {
  const void* padded = nullptr;
  void* out = nullptr;
  int64_t rows = 0;
  int32_t dim = 0;     // d
  int32_t stride = 0;  // e
};
void drop_padding(const DropPaddingParams& params, cudaStream_t stream);

}  // namespace freekv::cuda
