// turn_over() of recall.hpp: pages that filled go to the slow tier and are sketched.
#include <cuda_runtime.h>

#include <type_traits>

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/key2_build.cuh"
#include "backends/cuda/recall.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kThreads = 128;

// --- minmax, on two values of the KV type at once: exact, and NaN only where both are ------------

constexpr uint32_t kNanPair = 0x7fff7fff;  // in both types

template <KvType kType>
__device__ uint32_t higher(uint32_t a, uint32_t b) {
  uint32_t result;
  if constexpr (kType == KvType::kBF16) {
    asm("max.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  } else {
    asm("max.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
}

template <KvType kType>
__device__ uint32_t lower(uint32_t a, uint32_t b) {
  uint32_t result;
  if constexpr (kType == KvType::kBF16) {
    asm("min.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  } else {
    asm("min.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
}

// The highest and the lowest value of 8 channels.
template <KvType kType>
struct Box {
  uint4 hi{kNanPair, kNanPair, kNanPair, kNanPair};
  uint4 lo{kNanPair, kNanPair, kNanPair, kNanPair};

  __device__ void take(const uint4& key) { join({key, key}); }
  __device__ void join(const Box& other) {
    hi.x = higher<kType>(hi.x, other.hi.x);
    hi.y = higher<kType>(hi.y, other.hi.y);
    hi.z = higher<kType>(hi.z, other.hi.z);
    hi.w = higher<kType>(hi.w, other.hi.w);
    lo.x = lower<kType>(lo.x, other.lo.x);
    lo.y = lower<kType>(lo.y, other.lo.y);
    lo.z = lower<kType>(lo.z, other.lo.z);
    lo.w = lower<kType>(lo.w, other.lo.w);
  }
};

// --- the two things done with a page -------------------------------------------------------------

// `page` is a head page of the fast tier, `sketch` its [hi|lo][d]. Groups of kRowUnits threads take
// the tokens in turn; what they found is joined in the order of the groups.
template <KvType kType, int kDim>
__device__ void sketch_page(const uint4* page, uint4* sketch, int tokens, int kv_heads) {
  constexpr int kUnits = kRowUnits<kDim>, kGroups = kThreads / kUnits;
  __shared__ uint4 hi[kThreads], lo[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  Box<kType> box;
  if (thread < kGroups * kUnits) {
#pragma unroll 4
    for (int u = thread; u < tokens * kUnits; u += kGroups * kUnits) {
      box.take(page[fast_unit<kDim>(u, kv_heads)]);
    }
  }
  hi[thread] = box.hi;
  lo[thread] = box.lo;
  __syncthreads();
  if (thread >= kUnits) return;
  for (int group = 1; group < kGroups; ++group) {
    box.join({hi[group * kUnits + thread], lo[group * kUnits + thread]});
  }
  sketch[thread] = box.hi;
  sketch[kUnits + thread] = box.lo;
}

template <int kDim>
__device__ void write_page(const uint4* __restrict__ page, uint4* __restrict__ slow,
                           bool token_major, int tokens, int kv_heads) {
#pragma unroll 4
  for (int u = static_cast<int>(threadIdx.x); u < 2 * tokens * kRowUnits<kDim>; u += kThreads) {
    const int at = fast_unit<kDim>(u, kv_heads);
    slow[token_major ? at : u] = page[at];
  }
}

// A block per row and layer; almost all of them, in almost all steps, read one length and end.
template <KvType kType, int kDim>
__global__ void __launch_bounds__(kThreads)
    turn_over_kernel(const __grid_constant__ TurnOverParams params) {
  const KvGeometry& kv = params.kv;
  const int row = static_cast<int>(blockIdx.x);
  const int b = row / kv.kv_heads, head = row % kv.kv_heads;
  const int64_t tokens = params.batch.length(b);
  if (tokens % kv.page != 0) return;
  const auto page = static_cast<int32_t>(tokens / kv.page) - 1;
  const SequenceLayer& layer = params.batch.layer(b, static_cast<int>(blockIdx.y));
  const int32_t slot = layer.budgeted ? params.map.common_slot(page) : page;
  const uint4* from = unit_at(static_cast<const void*>(layer.fast), kv.fast_key(slot, 0, head));
  if (layer.budgeted && layer.slow != nullptr) {
    const int64_t to = layer.token_major ? kv.fast_key(page, 0, head)  // a page for a slot
                                         : kv.slow_head_page(page, head);
    write_page<kDim>(from, unit_at(layer.slow, to), layer.token_major, kv.page, kv.kv_heads);
  }
  if (layer.sketch == nullptr) return;
  const int64_t at = (int64_t{head} * layer.max_pages + page) * kv.sketch_bytes(layer.sketch_kind);
  unsigned char* sketch = static_cast<unsigned char*>(layer.sketch) + at;
  if (layer.sketch_kind == SketchKind::kKey2) {
    using T = std::conditional_t<kType == KvType::kBF16, __nv_bfloat16, __half>;
    build_key2_page<T, kDim, kThreads>(from, int64_t{kv.kv_heads} * kRowUnits<kDim>, kv.page,
                                       sketch);
  } else {
    sketch_page<kType, kDim>(from, reinterpret_cast<uint4*>(sketch), kv.page, kv.kv_heads);
  }
}

template <KvType kType>
void launch(const TurnOverParams& params, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(params.batch.n * params.kv.kv_heads),
                  static_cast<unsigned>(params.batch.layer_count));
  with_head_dim(params.kv.head_dim, [&](auto dim) {
    turn_over_kernel<kType, dim()><<<grid, kThreads, 0, stream>>>(params);
  });
  check_cuda(cudaGetLastError(), "turn_over");
}

}  // namespace

void turn_over(const TurnOverParams& params, cudaStream_t stream) {
  if (params.batch.n == 0 || params.batch.layer_count == 0) return;
  check_head_pages(params.kv, params.map);
  check_argument(params.batch.layer_count <= 65535, "{} layers, at most {} are possible",
                 params.batch.layer_count, 65535);
  if (params.kv.type == KvType::kBF16) {
    launch<KvType::kBF16>(params, stream);
  } else {
    launch<KvType::kF16>(params, stream);
  }
}

}  // namespace freekv::cuda
