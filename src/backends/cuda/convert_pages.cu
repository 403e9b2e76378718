// convert_pages() of recall.hpp: head pages from a staging buffer into slots.
#include <cuda_runtime.h>

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/recall.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kThreads = 256;

// A block per page.
template <int kDim>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(const __grid_constant__ ConvertParams params) {
  const KvGeometry& kv = params.kv;
  const int32_t slot = params.map.sink + params.moves[blockIdx.x].slot;
  const uint4* __restrict__ from = unit_at(params.staging, blockIdx.x * kv.head_page());
  uint4* __restrict__ to = unit_at(params.layer.fast, kv.fast_key(slot, 0, params.head));
  const int units = 2 * kv.page * kRowUnits<kDim>;
#pragma unroll 4
  for (int u = static_cast<int>(threadIdx.x); u < units; u += kThreads) {
    to[fast_unit<kDim>(u, kv.kv_heads)] = from[u];
  }
}

}  // namespace

void convert_pages(const ConvertParams& params, cudaStream_t stream) {
  check_head_pages(params.kv, params.map);
  check_argument(params.head >= 0 && params.head < params.kv.kv_heads,
                 "head is {}, must be 0 to {}", params.head, params.kv.kv_heads - 1);
  check_argument(params.count >= 0, "count is {}, must not be negative", params.count);
  if (params.count == 0) return;
  with_head_dim(params.kv.head_dim, [&](auto dim) {
    convert_kernel<dim()><<<static_cast<unsigned>(params.count), kThreads, 0, stream>>>(params);
  });
  check_cuda(cudaGetLastError(), "convert_pages");
}

}  // namespace freekv::cuda
