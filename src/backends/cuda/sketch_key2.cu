// sketch_pages() of selection.hpp for key2: a CTA per page and head.
#include <cuda_runtime.h>

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/key2_build.cuh"
#include "backends/cuda/sketch_keys.cuh"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kThreads = 128;

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads)
    sketch_key2_kernel(const __grid_constant__ SketchPagesParams params) {
  const KvGeometry& kv = params.kv;
  const auto head = static_cast<int>(blockIdx.x % static_cast<unsigned>(kv.kv_heads));
  const auto page =
      params.first + static_cast<int32_t>(blockIdx.x / static_cast<unsigned>(kv.kv_heads));
  const KeyColumn column = key_column(params, page, head, 0);
  const int64_t at =
      (int64_t{head} * params.layer.max_pages + page) * kv.sketch_bytes(SketchKind::kKey2);
  build_key2_page<T, kDim, kThreads>(unit_at(keys_of(params), column.begin),
                                     column.stride / kUnitValues, kv.page,
                                     static_cast<unsigned char*>(params.layer.sketch) + at);
}

}  // namespace

void sketch_key2_pages(const SketchPagesParams& params, cudaStream_t stream) {
  const KvGeometry& kv = params.kv;
  check_argument(kv.page <= 64, "page is {}, must be at most {}", kv.page, 64);
  const auto grid = static_cast<unsigned>(int64_t{params.count} * kv.kv_heads);
  with_head_dim(kv.head_dim, [&](auto dim) {
    if (kv.type == KvType::kBF16) {
      sketch_key2_kernel<__nv_bfloat16, dim()><<<grid, kThreads, 0, stream>>>(params);
    } else {
      sketch_key2_kernel<__half, dim()><<<grid, kThreads, 0, stream>>>(params);
    }
  });
  check_cuda(cudaGetLastError(), "sketch_pages");
}

}  // namespace freekv::cuda
