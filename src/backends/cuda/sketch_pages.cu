// sketch_pages() of selection.hpp: minmax sketches of complete pages; key2's are in sketch_key2.cu.
#include "backends/cuda/selection.hpp"
#include "backends/cuda/sketch_keys.cuh"
#include "backends/cuda/sketch_values.cuh"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kValues = 8;  // per thread: 16 bytes
constexpr int kLoads = 16;  // tokens in flight per thread; divides every page

// std::max and std::min on purpose: of equals the earlier stays and a NaN after the first token is
// passed over, as in the CPU's sketches.
__device__ void widen(const float* key, float* hi, float* lo) {
#pragma unroll
  for (int e = 0; e < kValues; ++e) {
    hi[e] = hi[e] < key[e] ? key[e] : hi[e];
    lo[e] = key[e] < lo[e] ? key[e] : lo[e];
  }
}

// One thread per eight channels of one page and head.
template <typename T>
__global__ void __launch_bounds__(kThreads) sketch_kernel(SketchPagesParams params) {
  const KvGeometry& kv = params.kv;
  const int columns = kv.head_dim / kValues;
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= int64_t{params.count} * kv.kv_heads * columns) return;
  const int channel = static_cast<int>(at % columns) * kValues;
  const int head = static_cast<int>(at / columns % kv.kv_heads);
  const auto page = static_cast<int32_t>(params.first + at / columns / kv.kv_heads);

  const KeyColumn column = key_column(params, page, head, channel);
  const T* keys = static_cast<const T*>(keys_of(params)) + column.begin;
  float hi[kValues], lo[kValues];
  for (int first = 0; first < kv.page; first += kLoads) {
    uint4 raw[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      raw[i] = *reinterpret_cast<const uint4*>(keys + (first + i) * column.stride);
    }
    if (first == 0) {
      unpack<T>(raw[0], hi);
      unpack<T>(raw[0], lo);
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      float key[kValues];
      unpack<T>(raw[i], key);
      widen(key, hi, lo);
    }
  }
  T* sketch = static_cast<T*>(params.layer.sketch) +
              (int64_t{head} * params.layer.max_pages + page) * 2 * kv.head_dim + channel;
  *reinterpret_cast<uint4*>(sketch) = pack<T>(hi);
  *reinterpret_cast<uint4*>(sketch + kv.head_dim) = pack<T>(lo);
}

void check(const SketchPagesParams& params) {
  const KvGeometry& kv = params.kv;
  check_argument(kv.head_dim > 0 && kv.head_dim % kValues == 0,
                 "head_dim is {}, must be a multiple of {}", kv.head_dim, kValues);
  check_argument(kv.page > 0 && kv.page % kLoads == 0, "page is {}, must be a multiple of {}",
                 kv.page, kLoads);
  check_argument(params.first >= 0 && params.count <= params.layer.max_pages - params.first,
                 "pages [{}, {}) are asked for, there are {}", params.first,
                 int64_t{params.first} + params.count, params.layer.max_pages);
  check_argument(params.layer.sketch != nullptr, "the layer has no sketches, {} are asked for",
                 params.count);
  if (params.keys) {
    check_argument(params.key_stride >= kv.head_dim && params.key_stride % kValues == 0,
                   "keys of {} values every {}, must be a multiple of {}", kv.head_dim,
                   params.key_stride, kValues);
    return;
  }
  check_argument((params.layer.budgeted ? params.layer.slow : params.layer.fast) != nullptr,
                 "the layer has no {} tier, {} pages are asked for",
                 params.layer.budgeted ? "slow" : "fast", params.count);
}

}  // namespace

void sketch_pages(const SketchPagesParams& params, cudaStream_t stream) {
  if (params.count <= 0) return;
  check(params);
  if (params.layer.sketch_kind == SketchKind::kKey2) return sketch_key2_pages(params, stream);
  const KvGeometry& kv = params.kv;
  const int64_t threads = int64_t{params.count} * kv.kv_heads * (kv.head_dim / kValues);
  const auto grid = static_cast<unsigned>((threads + kThreads - 1) / kThreads);
  if (kv.type == KvType::kBF16) {
    sketch_kernel<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(params);
  } else {
    sketch_kernel<__half><<<grid, kThreads, 0, stream>>>(params);
  }
  check_cuda(cudaGetLastError(), "sketch_pages");
}

}  // namespace freekv::cuda
