#include "backends/cuda/elementwise.hpp"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kMaxNormThreads = 1024;

// --- four values at a time, where rows and pointers are aligned; else one by one -----------------

template <bool kAligned>
__device__ float4 load4(const float* row, int at, int size) {
  if constexpr (kAligned) {
    return *reinterpret_cast<const float4*>(row + at);
  } else {
    float4 v = {0, 0, 0, 0};
    v.x = row[at];
    if (at + 1 < size) v.y = row[at + 1];
    if (at + 2 < size) v.z = row[at + 2];
    if (at + 3 < size) v.w = row[at + 3];
    return v;
  }
}

template <bool kAligned>
__device__ void store4(float* row, int at, int size, const float4& v) {
  if constexpr (kAligned) {
    *reinterpret_cast<float4*>(row + at) = v;
  } else {
    row[at] = v.x;
    if (at + 1 < size) row[at + 1] = v.y;
    if (at + 2 < size) row[at + 2] = v.z;
    if (at + 3 < size) row[at + 3] = v.w;
  }
}

bool aligned4(int size, std::initializer_list<const void*> pointers) {
  return size % 4 == 0 && std::ranges::all_of(pointers, [](const void* pointer) {
           return reinterpret_cast<uintptr_t>(pointer) % sizeof(float4) == 0;
         });
}

template <typename Launch>
void dispatch_aligned(bool aligned, Launch&& launch) {
  if (aligned) {
    launch(std::true_type{});
  } else {
    launch(std::false_type{});
  }
}

unsigned blocks_of(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

void check_rows(const char* what, int n, int size) {
  check_argument(n >= 0 && size >= 1 && size <= (1 << 23),
                 "{}: {} rows of {} values, must be at least 0 of 1 to {}", what, n, size, 1 << 23);
}

// --- kernels -------------------------------------------------------------------------------------

// Block (token, part of the row).
__global__ void __launch_bounds__(kThreads) embed_kernel(EmbedParams p) {
  const int row = static_cast<int>(blockIdx.x);
  const int at = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  if (at >= p.hidden) return;
  const uint32_t bits =
      static_cast<const uint16_t*>(p.table)[int64_t{p.ids[row]} * p.hidden + at];  // bf16
  p.out[int64_t{row} * p.hidden + at] = __uint_as_float(bits << 16);
}

__device__ float add_lanes(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

// The sum over the block, in all threads. blockDim is a multiple of a warp.
__device__ float add_threads(float value) {
  __shared__ float of_warp[kMaxNormThreads / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  value = add_lanes(value);
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  return add_lanes(lane < static_cast<int>(blockDim.x) / kWarp ? of_warp[lane] : 0.0f);
}

// A block per row. No pointer is restrict: out may be x.
template <bool kAligned>
__global__ void __launch_bounds__(kMaxNormThreads) rms_norm_kernel(RmsNormParams p) {
  const float* x = p.x + int64_t{blockIdx.x} * p.hidden;
  float* out = p.out + int64_t{blockIdx.x} * p.hidden;
  const int begin = 4 * static_cast<int>(threadIdx.x);
  const int step = 4 * static_cast<int>(blockDim.x);
  float squares = 0;
  for (int at = begin; at < p.hidden; at += step) {
    const float4 v = load4<kAligned>(x, at, p.hidden);
    squares = fmaf(v.x, v.x, squares);
    squares = fmaf(v.y, v.y, squares);
    squares = fmaf(v.z, v.z, squares);
    squares = fmaf(v.w, v.w, squares);
  }
  const float mean = add_threads(squares) / static_cast<float>(p.hidden);
  const float inverse = 1.0f / sqrtf(mean + p.eps);
  for (int at = begin; at < p.hidden; at += step) {
    const float4 v = load4<kAligned>(x, at, p.hidden);
    const float4 w = load4<kAligned>(p.weight, at, p.hidden);
    store4<kAligned>(
        out, at, p.hidden,
        {v.x * inverse * w.x, v.y * inverse * w.y, v.z * inverse * w.z, v.w * inverse * w.w});
  }
}

__device__ float gated(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

// Block (row, part of the row).
template <bool kAligned>
__global__ void __launch_bounds__(kThreads) swiglu_kernel(SwigluParams p) {
  const int row = static_cast<int>(blockIdx.x);
  const int at = 4 * static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  if (at >= p.ffn) return;
  const float* gate = p.gate_up + int64_t{row} * 2 * p.ffn;
  const float4 g = load4<kAligned>(gate, at, p.ffn);
  const float4 u = load4<kAligned>(gate + p.ffn, at, p.ffn);
  store4<kAligned>(p.out + int64_t{row} * p.ffn, at, p.ffn,
                   {gated(g.x, u.x), gated(g.y, u.y), gated(g.z, u.z), gated(g.w, u.w)});
}

__global__ void __launch_bounds__(kThreads) advance_kernel(AdvanceParams p) {
  const int b = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (b < p.n) p.tokens[p.sequence[b]] += 1;
}

}  // namespace

void embed(const EmbedParams& params, cudaStream_t stream) {
  check_rows("embed", params.n, params.hidden);
  if (params.n == 0) return;
  const dim3 blocks(static_cast<unsigned>(params.n), blocks_of(params.hidden));
  embed_kernel<<<blocks, kThreads, 0, stream>>>(params);
  check_cuda(cudaGetLastError(), "embed");
}

void rms_norm(const RmsNormParams& params, cudaStream_t stream) {
  check_rows("rms_norm", params.n, params.hidden);
  if (params.n == 0) return;
  // By the size of a row alone, so that a row's sum does not depend on the batch.
  const int warps = (params.hidden + 4 * kWarp - 1) / (4 * kWarp);
  const int threads = std::min(warps * kWarp, kMaxNormThreads);
  const auto rows = static_cast<unsigned>(params.n);
  dispatch_aligned(
      aligned4(params.hidden, {params.x, params.weight, params.out}),
      [&](auto aligned) { rms_norm_kernel<aligned.value><<<rows, threads, 0, stream>>>(params); });
  check_cuda(cudaGetLastError(), "rms_norm");
}

void swiglu(const SwigluParams& params, cudaStream_t stream) {
  check_rows("swiglu", params.n, params.ffn);
  if (params.n == 0) return;
  const dim3 blocks(static_cast<unsigned>(params.n), blocks_of((params.ffn + 3) / 4));
  dispatch_aligned(aligned4(params.ffn, {params.gate_up, params.out}), [&](auto aligned) {
    swiglu_kernel<aligned.value><<<blocks, kThreads, 0, stream>>>(params);
  });
  check_cuda(cudaGetLastError(), "swiglu");
}

void advance(const AdvanceParams& params, cudaStream_t stream) {
  check_argument(params.n >= 0, "advance: n is {}, must be at least 0", params.n);
  if (params.n == 0) return;
  advance_kernel<<<blocks_of(params.n), kThreads, 0, stream>>>(params);
  check_cuda(cudaGetLastError(), "advance");
}

}  // namespace freekv::cuda
