// Where sketch_pages() reads keys: the fast tier, the slow tier, or a layer's keys in order as
// prefill has them. Device code, and what sketch_pages() launches for each kind of sketch.
#pragma once

#include "backends/cuda/selection.hpp"

namespace freekv::cuda {

/// Keys of one page and head, at some channel.
struct KeyColumn {
  int64_t begin = 0;   // of the first token, in values
  int64_t stride = 0;  // to the next token
};

/// key2 (sketch_key2.cu); the parameters are checked.
void sketch_key2_pages(const SketchPagesParams& params, cudaStream_t stream);

#ifdef __CUDACC__
__device__ inline const void* keys_of(const SketchPagesParams& params) {
  if (params.keys) return params.keys;
  return params.layer.budgeted ? params.layer.slow : params.layer.fast;
}

__device__ inline KeyColumn key_column(const SketchPagesParams& params, int32_t page, int head,
                                       int channel) {
  if (params.keys) {
    const int64_t row = int64_t{page} * params.kv.page * params.kv.kv_heads + head;
    return {row * params.key_stride + channel, int64_t{params.kv.kv_heads} * params.key_stride};
  }
  if (params.layer.budgeted && !params.layer.token_major) {
    return {params.kv.slow_head_page(page, head) + channel, params.kv.head_dim};
  }
  return {params.kv.fast_key(page, 0, head) + channel, params.kv.fast_token_stride()};
}
#endif

}  // namespace freekv::cuda
