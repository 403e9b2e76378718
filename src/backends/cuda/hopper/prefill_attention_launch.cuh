// How FlashInfer's kernel for Hopper is launched: warp-group products and bulk copies, which only
// code for sm_90a can use.
#pragma once

// A collection of everything in CUTLASS and its tests, of which the kernel uses nothing.
#define FLASHINFER_CUTLASS_UTILS_CUH_
#include <cutlass/cutlass.h>

#include <cmath>
#include <flashinfer/attention/hopper/default_params.cuh>
#include <flashinfer/attention/hopper/prefill_sm90.cuh>
#include <flashinfer/attention/hopper/variants.cuh>

#include "backends/cuda/prefill_attention.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {

template <uint32_t kDim>
void launch_hopper(const PrefillAttentionParams& p, cudaStream_t stream) {
  using Value = cutlass::bfloat16_t;
  using Params = flashinfer::SinglePrefillParams<Value, Value, Value>;
  using Variant = flashinfer::DefaultAttention</*use_logits_soft_cap=*/false>;
  // It takes pointers to what it only reads without const.
  const auto values = [](const void* from) {
    return const_cast<Value*>(static_cast<const Value*>(from));
  };
  Params params{};
  params.q_ptr = values(p.q);
  params.k_ptr = values(p.key);
  params.v_ptr = values(p.value);
  params.o_ptr = values(p.out);
  params.additional_params.sm_scale = 1.0f / std::sqrt(static_cast<float>(p.kv.head_dim));
  params.q_stride_n = params.o_stride_n = int64_t{p.kv.query_heads()} * kDim;
  params.k_stride_n = params.v_stride_n = int64_t{p.kv.kv_heads} * kDim;
  params.q_stride_h = params.k_stride_h = params.v_stride_h = params.o_stride_h = kDim;
  params.qo_len = static_cast<int>(p.n);
  params.kv_len = static_cast<int>(p.context);
  params.num_qo_heads = p.kv.query_heads();
  params.num_kv_heads = p.kv.kv_heads;
  params.group_size = p.kv.group;
  params.window_left = -1;
  params.causal = true;
  check_cuda(
      (flashinfer::SinglePrefillWithKVCacheDispatched<kDim, kDim, flashinfer::MaskMode::kCausal,
                                                      /*LEFT_SLIDING_WINDOW=*/false, Variant>(
          params, stream)),
      "prefill attention");
}

}  // namespace freekv::cuda
