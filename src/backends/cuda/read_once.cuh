// What is read once a step leaves L2 first: else a layer's weights, ten times what L2 holds, would
// take the tables, small weights and code of all other kernels with them. Device code only.
#pragma once

#include <cstdint>

namespace freekv::cuda {

/// For .L2::cache_hint.
__device__ __forceinline__ uint64_t read_once() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

}  // namespace freekv::cuda
