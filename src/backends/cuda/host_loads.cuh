// Head pages out of pinned host memory by 16-byte loads. Device code only.
#pragma once

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/layout.hpp"

namespace freekv::cuda {

inline constexpr int kLoads = 8;                // in flight per thread: the link is far away
inline constexpr int kPartUnits = 32 * kLoads;  // a warp's, at once

/// Where a move reads, and the unit that its first row is written to.
struct HeadPageCopy {
  const uint4* source;
  uint4* target;
};

__device__ inline HeadPageCopy head_page_copy(const KvGeometry& kv, const PageMap& map,
                                              const SequenceLayer& layer, int head,
                                              const Move& move) {
  return {unit_at(static_cast<const void*>(layer.slow), kv.slow_head_page(move.page, head)),
          unit_at(layer.fast, kv.fast_key(map.sink + move.slot, 0, head))};
}

__device__ inline int parts_of_head_page(int units) {
  return (units + kPartUnits - 1) / kPartUnits;
}

// Host memory is read once, so that L1 need not keep it. Not ld.nc: other launches write there.
__device__ inline uint4 load_once(const uint4* at) {
  uint4 value;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(__cvta_generic_to_global(at)));
  return value;
}

/// Units first, first + 32, ... of a part; `first` counts this lane in.
template <int kDim>
__device__ void copy_part(const HeadPageCopy& item, int first, int units, int kv_heads) {
  uint4 data[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int u = first + i * 32;
    data[i] = u < units ? load_once(item.source + u) : uint4{};
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int u = first + i * 32;
    if (u < units) item.target[fast_unit<kDim>(u, kv_heads)] = data[i];
  }
}

}  // namespace freekv::cuda
