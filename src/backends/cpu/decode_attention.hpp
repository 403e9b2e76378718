// Flash-decoding over pages with SIMD. Contract: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"
#include "device/buffer.hpp"

namespace freekv::cpu {

/// Memory that a decode step needs and must not allocate: partial sums of split rows.
struct DecodeAttentionScratch {
  Buffer memory;

  void reserve(ExecutionContext& ctx, const BackendLimits& limits);
};

void decode_attention(ExecutionContext& ctx, DecodeAttentionScratch& scratch,
                      View<const float, 3> q, std::span<const AttentionRow> rows, float scale,
                      View<float, 3> out);

}  // namespace freekv::cpu
