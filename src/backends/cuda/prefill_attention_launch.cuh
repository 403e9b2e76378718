// How FlashInfer's kernel for one sequence is launched. We name its tile ourselves, so that one
// kernel is compiled per head dimension and type, not the dozen that its own launcher chooses from.
#pragma once

#include <cmath>
#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/variants.cuh>

#include "backends/cuda/prefill_attention.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {

/// Queries in a tile are (token, head of the group) pairs; tiles of both kinds are in steps of 16.
template <uint32_t kDim, uint32_t kQueriesPerWarp, uint32_t kKeys>
struct PrefillTile {
  static constexpr uint32_t kWarps = 4;
  static constexpr uint32_t kQueries = kWarps * kQueriesPerWarp;

  template <typename Kv>
  static void launch(const PrefillAttentionParams& p, cudaStream_t stream) {
    using Params = flashinfer::SinglePrefillParams<Kv, Kv, __nv_bfloat16>;
    using Variant = flashinfer::DefaultAttention</*use_custom_mask=*/false,
                                                 /*use_sliding_window=*/false,
                                                 /*use_logits_soft_cap=*/false,
                                                 /*use_alibi=*/false>;
    using Traits =
        flashinfer::KernelTraits<flashinfer::MaskMode::kCausal, kQueries, kQueriesPerWarp / 16,
                                 kKeys / 16, kDim / 16, kDim / 16, kWarps, /*NUM_WARPS_KV=*/1,
                                 flashinfer::PosEncodingMode::kNone, Kv, Kv, __nv_bfloat16, float,
                                 int32_t, Variant>;
    static_assert(!Traits::IsInvalid());
    const auto heads = static_cast<uint32_t>(p.kv.query_heads());
    const auto kv_heads = static_cast<uint32_t>(p.kv.kv_heads);
    const auto group = static_cast<uint32_t>(p.kv.group);
    const auto n = static_cast<uint32_t>(p.n);
    // It takes pointers to what it only reads without const.
    const auto input = [](const void* values) {
      return const_cast<Kv*>(static_cast<const Kv*>(values));
    };
    const Params params(input(p.q), input(p.key), input(p.value), /*maybe_custom_mask=*/nullptr,
                        static_cast<__nv_bfloat16*>(p.out), /*lse=*/nullptr,
                        /*maybe_alibi_slopes=*/nullptr, heads, kv_heads, n,
                        static_cast<uint32_t>(p.context), heads * kDim, kDim, kv_heads * kDim, kDim,
                        kDim, /*window_left=*/-1, /*logits_soft_cap=*/0,
                        1.0f / std::sqrt(static_cast<float>(p.kv.head_dim)), /*rope_scale=*/1,
                        /*rope_theta=*/1);
    constexpr auto kKernel = flashinfer::SinglePrefillWithKVCacheKernel<Traits, Params>;
    constexpr auto kShared = static_cast<int>(sizeof(typename Traits::SharedStorage));
    check_cuda(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
               "shared memory of prefill attention");
    const dim3 grid((n * group + kQueries - 1) / kQueries, 1, kv_heads);
    kKernel<<<grid, dim3(32, kWarps, 1), kShared, stream>>>(params);
    check_cuda(cudaGetLastError(), "prefill attention");
  }

  static void run(const PrefillAttentionParams& p, cudaStream_t stream) {
    if (p.kv.type == KvType::kBF16) {
      launch<__nv_bfloat16>(p, stream);
    } else {
      launch<__half>(p, stream);
    }
  }
};

}  // namespace freekv::cuda
