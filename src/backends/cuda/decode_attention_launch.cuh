// Launches of decode attention, one file per KV type so that they compile side by side.
#pragma once

#include <type_traits>

#include "backends/cuda/decode_attention_kernel.cuh"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda::decode {

template <typename Visit>
void visit_head_dim(int head_dim, Visit&& visit) {
  switch (head_dim) {
    case 64:
      return visit(std::integral_constant<int, 64>{});
    case 80:
      return visit(std::integral_constant<int, 80>{});
    case 96:
      return visit(std::integral_constant<int, 96>{});
    case 128:
      return visit(std::integral_constant<int, 128>{});
    case 256:
      return visit(std::integral_constant<int, 256>{});
    default:
      fail(ErrorCode::kInvalidArgument, "decode attention: no head_dim {}", head_dim);
  }
}

template <KvType kType>
void launch(const DecodeAttentionParams& params, const Scratch& scratch, cudaStream_t stream) {
  visit_head_dim(params.kv.head_dim, [&](auto dim) {
    constexpr int kDim = decltype(dim)::value;
    constexpr int kShared = Shape<kDim>::kShared;
    const auto kernel = decode_attention_kernel<kType, kDim>;
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
               "decode_attention: shared memory");
    // Room for a second CTA where the GPU has it.
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                    cudaSharedmemCarveoutMaxShared),
               "decode_attention: carveout");
    const int ctas = params.batch.n * params.kv.kv_heads * params.splits;
    launch_early(kernel, static_cast<unsigned>(ctas), kThreads, kShared, stream, params, scratch);
  });
}

extern template void launch<KvType::kBF16>(const DecodeAttentionParams&, const Scratch&,
                                           cudaStream_t);
extern template void launch<KvType::kF16>(const DecodeAttentionParams&, const Scratch&,
                                          cudaStream_t);

}  // namespace freekv::cuda::decode
