// Exact causal attention of a chunk, in blocks of queries by blocks of keys with a running softmax
// (FlashAttention, section 3.1). Contract: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"
#include "device/buffer.hpp"

namespace freekv::cpu {

/// Blocks of Q, K, V, scores and sums as f32, one set per worker: independent of the context.
struct PrefillAttentionScratch {
  Buffer memory;

  void reserve(ExecutionContext& ctx, const BackendLimits& limits);
};

void prefill_attention(ExecutionContext& ctx, PrefillAttentionScratch& scratch,
                       const PrefillAttention& params);

}  // namespace freekv::cpu
