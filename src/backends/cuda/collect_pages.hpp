// From the pages of a sequence, in whichever tier they are, back to a layer's keys and values in
// order: what prefill goes on from when it takes over what another prompt has computed.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/layout.hpp"

namespace freekv::cuda {

/// Keys and values of tokens `first` to `end` - 1 of a sequence that holds `held`, by token:
/// [end - first, M, e], e = prefill_head_dim(d); what is behind the first d of a row stays.
/// Complete pages of a budgeted layer are read from the slow tier, over the bus; the unfinished one
/// from where the window has it.
struct CollectPagesParams {
  KvGeometry kv;  // of the sequence, like the map
  PageMap map;
  SequenceLayer layer;
  int64_t held = 0;
  int64_t first = 0;
  int64_t end = 0;
  void* key = nullptr;
  void* value = nullptr;
};
void collect_pages(const CollectPagesParams& params, cudaStream_t stream);

}  // namespace freekv::cuda
