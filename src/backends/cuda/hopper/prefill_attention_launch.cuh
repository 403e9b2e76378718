// How FlashInfer's kernel for Hopper is launched: warp-group products and bulk copies, which only
// code for sm_90a can use.
//
// Its parts are put together here and not by its own launcher because of one of them. What writes
// the output there (0.7.2) goes through shared memory, and its warps arrive at a barrier and then
// wait at it, which counts them twice: half of the warps open it, and the others' rows may be
// written out before they are there.
#pragma once

// A collection of everything in CUTLASS and its tests, of which the kernel uses nothing.
#define FLASHINFER_CUTLASS_UTILS_CUH_
#include <cuda_bf16.h>
#include <cutlass/cutlass.h>

#include <cmath>
#include <flashinfer/attention/hopper/default_params.cuh>
#include <flashinfer/attention/hopper/prefill_sm90.cuh>
#include <flashinfer/attention/hopper/variants.cuh>

#include "backends/cuda/prefill_attention.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {

/// Writes the output from the registers that the products leave it in: no shared memory, nothing to
/// wait for. Four threads write 16 bytes of a row.
template <typename Traits>
struct RegisterEpilogue : flashinfer::CollectiveEpilogue<Traits> {
  using Base = flashinfer::CollectiveEpilogue<Traits>;

  template <typename Coordinates, typename Shared, typename Output, typename Sums, typename Product>
  CUTLASS_DEVICE void store(const typename Base::Params& params, const Output& output, const Sums&,
                            Shared&, Product product, int thread, const Coordinates& coordinates) {
    using namespace cute;  // NOLINT(google-build-using-namespace): its operators are found by it
    const int tile = get<0>(coordinates), head = get<1>(coordinates), rows = get<5>(coordinates);
    const auto places = product.get_thread_slice(thread).partition_C(
        make_identity_tensor(Shape<Int<Base::CTA_Q>, Int<Base::HEAD_DIM_VO>>{}));
    static_assert(decltype(size<0, 0>(places))::value == 2, "two columns side by side");
    CUTE_STATIC_ASSERT_V(size(places) == size(output));
#pragma unroll
    for (int i = 0; i < size(output); i += 2) {
      const int row = tile * Base::CTA_Q + get<0>(places(i));
      if (row >= rows) continue;
      auto* to = params.O_ptr + params.layout_O(row, get<1>(places(i)), head);
      *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(output(i), output(i + 1));
    }
  }
};

template <uint32_t kDim>
void launch_hopper(const PrefillAttentionParams& p, cudaStream_t stream) {
  using Value = cutlass::bfloat16_t;
  using Params = flashinfer::SinglePrefillParams<Value, Value, Value>;
  using Variant = flashinfer::DefaultAttention</*use_logits_soft_cap=*/false>;
  using Traits =
      flashinfer::AttentionKernelTraits</*USE_TMA_LOAD_KV=*/true, kDim, kDim,
                                        /*CTA_Q=*/kDim == 64 ? 192 : 128, /*CTA_KV=*/128,
                                        /*NUM_STAGES=*/2, Value, Value, Value, int32_t, Variant>;
  using Mainloop = flashinfer::CollectiveMainloop<Params::AdditionalParams, Traits,
                                                  /*CAUSAL=*/true>;
  using Epilogue = RegisterEpilogue<Traits>;
  using Scheduler = flashinfer::SingleTileScheduler;
  const int n = static_cast<int>(p.n), context = static_cast<int>(p.context);
  const int heads = p.kv.query_heads(), kv_heads = p.kv.kv_heads;
  const auto rows = [](int count, int row_heads) {
    return flashinfer::get_gmem_layout(count, row_heads, static_cast<int>(kDim),
                                       int64_t{row_heads} * kDim, int64_t{kDim});
  };
  Params::AdditionalParams scale{};
  scale.sm_scale = 1.0f / std::sqrt(static_cast<float>(p.kv.head_dim));
  auto mainloop = Mainloop::to_underlying_arguments(
      {static_cast<const Value*>(p.q), rows(n, heads), static_cast<const Value*>(p.key),
       rows(context, kv_heads), static_cast<const Value*>(p.value), rows(context, kv_heads),
       /*window_left=*/-1, scale});
  auto epilogue = Epilogue::to_underlying_arguments({static_cast<Value*>(p.out), rows(n, heads),
                                                     /*lse_ptr=*/nullptr,
                                                     flashinfer::get_lse_gmem_layout(n, heads)});
  const Scheduler::Arguments tiles{(n + Traits::CTA_Q - 1) / Traits::CTA_Q, heads, n, context,
                                   cutlass::FastDivmod(p.kv.group)};
  auto scheduler = Scheduler::to_underlying_arguments(tiles);
  constexpr auto kKernel = flashinfer::PrefillWithKVCacheKernel<Mainloop, Epilogue, Traits,
                                                                /*LEFT_SLIDING_WINDOW=*/false,
                                                                /*CAUSAL=*/true, Scheduler>;
  constexpr auto kShared = static_cast<int>(sizeof(typename Traits::SharedStorage));
  check_cuda(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
             "shared memory of prefill attention");
  kKernel<<<Scheduler::get_grid_dim(tiles, 0), Traits::NUM_THREADS, kShared, stream>>>(
      mainloop, epilogue, scheduler);
  check_cuda(cudaGetLastError(), "prefill attention");
}

}  // namespace freekv::cuda
