// A page of one head as recall's kernels see it: 2p rows of d values, K's p rows before V's, moved
// in units of 16 bytes. In the slow tier and in staging buffers the rows follow one another. In the
// fast tier V's rows follow K's at the stride between tokens, so that there too one stride does.
// Pools begin at multiples of 16 bytes; every head dimension keeps their rows there.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <type_traits>

#include "backends/cuda/layout.hpp"
#include "core/check.hpp"

namespace freekv::cuda {

inline constexpr int kUnitValues = 8;  // of 2 bytes

/// Units of a row.
template <int kDim>
inline constexpr int kRowUnits = kDim / kUnitValues;

inline void check_head_pages(const KvGeometry& kv, const PageMap& map) {
  check_argument(kv.kv_heads >= 1, "kv_heads is {}, must be at least 1", kv.kv_heads);
  check_argument(kv.page == 16 || kv.page == 32 || kv.page == 64,
                 "page is {} tokens, must be 16, 32 or 64", kv.page);
  check_argument(map.page == kv.page, "the page map's page is {}, the KV's {}", map.page, kv.page);
}

/// Calls `launch` with the head dimension as a constant.
template <typename Launch>
void with_head_dim(int head_dim, Launch&& launch) {
  switch (head_dim) {
    case 64:
      return launch(std::integral_constant<int, 64>{});
    case 80:
      return launch(std::integral_constant<int, 80>{});
    case 96:
      return launch(std::integral_constant<int, 96>{});
    case 128:
      return launch(std::integral_constant<int, 128>{});
    case 256:
      return launch(std::integral_constant<int, 256>{});
    default:
      check_argument(false, "head_dim is {}, must be 64, 80, 96, 128 or 256", head_dim);
  }
}

#ifdef __CUDACC__
/// The unit at `values`, an offset into a pool as KvGeometry counts them.
__device__ inline const uint4* unit_at(const void* pool, int64_t values) {
  return reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(pool) + values);
}
__device__ inline uint4* unit_at(void* pool, int64_t values) {
  return reinterpret_cast<uint4*>(static_cast<uint16_t*>(pool) + values);
}

/// Where unit `u` of a head page stands in the fast tier, in units from its first.
template <int kDim>
__device__ int fast_unit(int u, int kv_heads) {
  return u / kRowUnits<kDim> * (kv_heads * kRowUnits<kDim>)+u % kRowUnits<kDim>;
}
#endif

}  // namespace freekv::cuda
