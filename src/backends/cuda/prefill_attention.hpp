// Exact causal attention of a chunk of a prompt over everything before and in it: FlashInfer's
// kernels for one sequence, at one tile size per head dimension.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/layout.hpp"

namespace freekv::cuda {

/// Head dimension that prefill's queries, keys and values are stored with: d where there is a
/// kernel for it (64, 128, 256), else (80, 96) 128 with zeros behind the first d.
int prefill_head_dim(int head_dim);

/// Query i of n stands at position context - n + i and attends to the keys [0, context - n + i].
/// All arrays are contiguous; e = prefill_head_dim(d). Scores are scaled by 1 / sqrt(d).
struct PrefillAttentionParams {
  KvGeometry kv;
  const void* q = nullptr;      // [n, H, e] in the KV type
  const void* key = nullptr;    // [context, M, e] in the KV type
  const void* value = nullptr;  // [context, M, e]
  void* out = nullptr;          // [n, H, e] in bf16
  int64_t n = 0;
  int64_t context = 0;  // at least n
  /// The kernel that every GPU from sm_80 on runs, also where there is a faster one: on Hopper, for
  /// bf16 and e of 64 and 128.
  bool portable = false;
};
void prefill_attention(const PrefillAttentionParams& params, cudaStream_t stream);

// One per e, each in a file of its own, since they take long to compile.
void prefill_attention_64(const PrefillAttentionParams& params, cudaStream_t stream);
void prefill_attention_128(const PrefillAttentionParams& params, cudaStream_t stream);
void prefill_attention_256(const PrefillAttentionParams& params, cudaStream_t stream);
// For sm_90a, where the build has that.
void prefill_attention_hopper_64(const PrefillAttentionParams& params, cudaStream_t stream);
void prefill_attention_hopper_128(const PrefillAttentionParams& params, cudaStream_t stream);

}  // namespace freekv::cuda
