// From a layer's keys and values in order, as prefill computes them, to the pages of both tiers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/layout.hpp"

namespace freekv::cuda {

/// Keys and values of a layer by token: [tokens, M, e], e = prefill_head_dim(d), in the KV type.
struct LayerKv {
  KvGeometry kv;
  const void* key = nullptr;
  const void* value = nullptr;
  int64_t tokens = 0;
};

/// Complete pages [first, first + count) in the slow tier's layout (HND), to device memory that the
/// copy engine takes them from: [count][M][K|V][p][d].
void pack_pages(const LayerKv& from, int32_t first, int32_t count, void* to, cudaStream_t stream);

/// Page moves[i].page to slot first_slot + moves[i].slot of the fast tier (NHD), for all heads;
/// zeros for tokens that an unfinished page does not have yet. Without moves: page first + i to the
/// slot of that number. `moves` is device memory.
struct PlacePagesParams {
  LayerKv from;
  const Move* moves = nullptr;
  int32_t first_slot = 0;
  int32_t first = 0;
  int32_t count = 0;
  void* fast = nullptr;  // [slots][K|V][p][M][d]
};
void place_pages(const PlacePagesParams& params, cudaStream_t stream);

}  // namespace freekv::cuda
