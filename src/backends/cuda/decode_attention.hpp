// Paged attention of a decode batch, split over tokens (flash decoding).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "backends/cuda/layout.hpp"

namespace freekv::cuda {

/// out[r, g] = softmax(scale * q[r, g] . K) V over the pages of row r in their logical order:
/// dense rows all pages so far; others sink, SequenceLayer::selected and window. The last page
/// holds what T leaves. Tokens are read from the fast tier only.
///
/// The kernel before this one in its stream may write q, modes, the token at T - 1, and pages and
/// lists of rows that it makes kCorrected; everything else is read before that kernel has ended.
struct DecodeAttentionParams {
  Batch batch;
  KvGeometry kv;
  PageMap map;
  int32_t layer = 0;
  float scale = 1;
  const float* q = nullptr;       // [R, G, d]
  const RowMode* mode = nullptr;  // [R]
  float* out = nullptr;           // [R, G, d]
  /// Parts that the longest row is cut into; a captured graph keeps it, whatever the lengths.
  int32_t splits = 1;
  void* scratch = nullptr;  // decode_attention_scratch() bytes, zero before the first use
  /// Most rows past the budget are kSpeculative: their pages are read before it is known, too.
  bool expects_speculative = false;
};
size_t decode_attention_scratch(const KvGeometry& kv, int32_t n, int32_t splits);
void decode_attention(const DecodeAttentionParams& params, cudaStream_t stream);

}  // namespace freekv::cuda
