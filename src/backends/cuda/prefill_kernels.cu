#include "backends/cuda/prefill_kernels.hpp"

#include <algorithm>

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/prefill_attention.hpp"
#include "backends/cuda/rotate_head.cuh"
#include "backends/cuda/sketch_values.cuh"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kMaxNormThreads = 1024;

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

// A block per row.
__global__ void __launch_bounds__(kMaxNormThreads) norm_rows_kernel(NormRowsParams p) {
  const auto* x = reinterpret_cast<const float4*>(p.x + int64_t{blockIdx.x} * p.hidden);
  const auto* weight = reinterpret_cast<const float4*>(p.weight);
  auto* out =
      reinterpret_cast<uint2*>(static_cast<uint16_t*>(p.out) + int64_t{blockIdx.x} * p.hidden);
  const int begin = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  float squares = 0;
  for (int at = begin; at < p.hidden / 4; at += step) {
    const float4 v = x[at];
    squares = fmaf(v.x, v.x, squares);
    squares = fmaf(v.y, v.y, squares);
    squares = fmaf(v.z, v.z, squares);
    squares = fmaf(v.w, v.w, squares);
  }
  const float mean = add_threads(squares) / static_cast<float>(p.hidden);
  const float inverse = 1.0f / sqrtf(mean + p.eps);
  using Bf16 = Word<__nv_bfloat16>;
  for (int at = begin; at < p.hidden / 4; at += step) {
    const float4 v = x[at], w = weight[at];
    out[at] = {Bf16::pack(v.x * inverse * w.x, v.y * inverse * w.y),
               Bf16::pack(v.z * inverse * w.z, v.w * inverse * w.w)};
  }
}

// --- rotation ------------------------------------------------------------------------------------

template <int kDim>
__device__ void add_bias(Head<kDim>& head, const float* bias, Rope rope, int lane) {
  Head<kDim>::each(rope, lane, [&](int i, int, int first, int second) {
    head.first[i] += bias[first];
    head.second[i] += bias[second];
  });
}

// A block per token: its warps take one head of q, k or v after the other.
template <int kDim, typename Kv>
__global__ void __launch_bounds__(kThreads)
    rotate_rows_kernel(const __grid_constant__ RotateRowsParams p, int stride) {
  __shared__ Angles<kDim> angles;
  const int64_t row = blockIdx.x;
  const int64_t position = p.first + row;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  angles.fill(position, p.frequencies, p.rope_scale);
  __syncthreads();

  const int query_heads = p.kv.query_heads(), kv_heads = p.kv.kv_heads;
  const int heads = query_heads + 2 * kv_heads;
  for (int h = thread / kWarp; h < heads; h += kThreads / kWarp) {
    Head<kDim> head = load_head<kDim>(p.qkv + (row * heads + h) * kDim, p.rope, lane);
    if (p.bias) add_bias(head, p.bias + h * kDim, p.rope, lane);
    if (h >= query_heads + kv_heads) {
      const int64_t at = position * kv_heads + h - query_heads - kv_heads;
      store_head(head, static_cast<Kv*>(p.value) + at * stride, p.rope, lane);
      continue;
    }
    const float* weight = h < query_heads ? p.q_norm : p.k_norm;
    if (weight) norm_head(head, weight, p.norm_eps, p.rope, lane);
    angles.rotate(head, p.rope, lane);
    Kv* to = h < query_heads
                 ? static_cast<Kv*>(p.q) + (row * query_heads + h) * stride
                 : static_cast<Kv*>(p.key) + (position * kv_heads + h - query_heads) * stride;
    store_head(head, to, p.rope, lane);
  }
}

// --- the rest: a thread per 16 bytes -------------------------------------------------------------

__device__ int64_t thread_index() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }

__global__ void __launch_bounds__(kThreads) gate_rows_kernel(GateRowsParams p) {
  const int64_t columns = p.ffn / kUnitValues;
  const int64_t at = thread_index();
  if (at >= p.n * columns) return;
  const auto* gates = static_cast<const uint4*>(p.gate_up) + at / columns * 2 * columns;
  float gate[kUnitValues], up[kUnitValues];
  unpack<__nv_bfloat16>(gates[at % columns], gate);
  unpack<__nv_bfloat16>(gates[columns + at % columns], up);
#pragma unroll
  for (int e = 0; e < kUnitValues; ++e) gate[e] = gate[e] / (1.0f + __expf(-gate[e])) * up[e];
  static_cast<uint4*>(p.out)[at] = pack<__nv_bfloat16>(gate);
}

__global__ void __launch_bounds__(kThreads) add_bias_kernel(AddBiasParams p) {
  const int64_t columns = p.hidden / 4;
  const int64_t at = thread_index();
  if (at >= p.n * columns) return;
  const float4 bias = reinterpret_cast<const float4*>(p.bias)[at % columns];
  float4& x = reinterpret_cast<float4*>(p.x)[at];
  x = {x.x + bias.x, x.y + bias.y, x.z + bias.z, x.w + bias.w};
}

__global__ void __launch_bounds__(kThreads) drop_padding_kernel(DropPaddingParams p) {
  const int64_t columns = p.dim / kUnitValues;
  const int64_t at = thread_index();
  if (at >= p.rows * columns) return;
  static_cast<uint4*>(p.out)[at] =
      static_cast<const uint4*>(p.padded)[at / columns * (p.stride / kUnitValues) + at % columns];
}

unsigned blocks_of(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

void norm_rows(const NormRowsParams& params, cudaStream_t stream) {
  check_argument(params.hidden >= 4 && params.hidden % 4 == 0,
                 "norm_rows: {} rows of {} values, must be a multiple of 4", params.n,
                 params.hidden);
  if (params.n == 0) return;
  const int warps = (params.hidden / 4 + kWarp - 1) / kWarp;
  const int threads = std::min(warps * kWarp, kMaxNormThreads);
  norm_rows_kernel<<<static_cast<unsigned>(params.n), threads, 0, stream>>>(params);
  check_cuda(cudaGetLastError(), "norm_rows");
}

void rotate_rows(const RotateRowsParams& params, cudaStream_t stream) {
  const int stride = prefill_head_dim(params.kv.head_dim);
  if (params.n == 0) return;
  const auto rows = static_cast<unsigned>(params.n);
  with_head_dim(params.kv.head_dim, [&](auto dim) {
    if (params.kv.type == KvType::kBF16) {
      rotate_rows_kernel<dim(), __nv_bfloat16><<<rows, kThreads, 0, stream>>>(params, stride);
    } else {
      rotate_rows_kernel<dim(), __half><<<rows, kThreads, 0, stream>>>(params, stride);
    }
  });
  check_cuda(cudaGetLastError(), "rotate_rows");
}

void gate_rows(const GateRowsParams& params, cudaStream_t stream) {
  check_argument(params.ffn >= 8 && params.ffn % 8 == 0,
                 "gate_rows: {} rows of {} values, must be a multiple of 8", params.n, params.ffn);
  if (params.n == 0) return;
  gate_rows_kernel<<<blocks_of(params.n * params.ffn / kUnitValues), kThreads, 0, stream>>>(params);
  check_cuda(cudaGetLastError(), "gate_rows");
}

void add_bias(const AddBiasParams& params, cudaStream_t stream) {
  check_argument(params.hidden >= 4 && params.hidden % 4 == 0,
                 "add_bias: {} rows of {} values, must be a multiple of 4", params.n,
                 params.hidden);
  if (params.n == 0) return;
  add_bias_kernel<<<blocks_of(params.n * params.hidden / 4), kThreads, 0, stream>>>(params);
  check_cuda(cudaGetLastError(), "add_bias");
}

void drop_padding(const DropPaddingParams& params, cudaStream_t stream) {
  check_argument(params.dim >= 8 && params.dim % 8 == 0 && params.stride % 8 == 0 &&
                     params.stride >= params.dim,
                 "drop_padding: rows of {} values every {}, must be multiples of 8", params.dim,
                 params.stride);
  if (params.rows == 0) return;
  drop_padding_kernel<<<blocks_of(params.rows * params.dim / kUnitValues), kThreads, 0, stream>>>(
      params);
  check_cuda(cudaGetLastError(), "drop_padding");
}

}  // namespace freekv::cuda
