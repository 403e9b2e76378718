// Flash-decoding over pages with SIMD. Contract: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"
#include "device/buffer.hpp"

namespace freekv::cpu {

/// Memory that a decode step needs and must not allocate: a running softmax per worker, and the
/// partial sums of rows that are split.
struct DecodeAttentionScratch {
  Buffer memory;
  size_t workers = 0;
  size_t kv_heads = 0;
  size_t rows = 0;
  size_t group = 0;
  size_t dim = 0;
  size_t partials = 0;

  void reserve(ExecutionContext& ctx, const BackendLimits& limits);
};

/// A row is cut into splits by its own length alone, and their partial sums are merged in order:
/// so neither the thread count nor the rest of the batch changes a bit of the result.
void decode_attention(ExecutionContext& ctx, DecodeAttentionScratch& scratch,
                      View<const float, 3> q, std::span<const AttentionRow> rows, float scale,
                      View<float, 3> out, View<float, 2> log_mass = {});

}  // namespace freekv::cpu
