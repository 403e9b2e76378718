#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "backends/cuda/synthetic.hpp"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kThreads = 256;

// splitmix64: every bit of the result depends on every bit of the argument.
__device__ uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

__device__ void store(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }
__device__ void store(__half* to, float value) { *to = __float2half_rn(value); }

struct InOrder {
  __device__ int64_t operator()(int64_t i) const { return i; }
};

// Where the value at i of [slot][K|V][p][M][d] stands in [page][M][K|V][p][d].
struct HeadMajorOf {
  KvGeometry kv;
  __device__ int64_t operator()(int64_t i) const {
    const int64_t e = i % kv.head_dim, row = i / kv.head_dim;
    const int64_t head = row % kv.kv_heads, token = row / kv.kv_heads % kv.page;
    const int64_t half = row / kv.kv_heads / kv.page % 2, page = i / kv.slot();
    return page * kv.slot() + head * kv.head_page() + (half * kv.page + token) * kv.head_dim + e;
  }
};

template <typename T, typename Place>
__global__ void fill_random_kernel(T* values, int64_t count, uint64_t seed, float scale,
                                   Place place) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const auto bits = static_cast<uint32_t>(mixed(seed * 0x100000001b3ull + place(i)) >> 40);
    store(values + i, scale * (static_cast<float>(bits) * 0x1p-23f - 1.0f));
  }
}

__global__ void fill_constant_kernel(float* values, int64_t count, float value) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    values[i] = value;
  }
}

__global__ void __launch_bounds__(kThreads)
    read_once_kernel(const uint4* data, int64_t count, uint32_t* sink) {
  constexpr int kLoads = 8;  // in flight per thread
  uint32_t seen = 0;
  const int64_t tile = int64_t{kThreads} * kLoads;
  for (int64_t first = blockIdx.x * tile; first < count; first += gridDim.x * tile) {
    uint4 values[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t at = first + i * kThreads + threadIdx.x;
      values[i] = at < count ? __ldcs(data + at) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      seen ^= values[i].x ^ values[i].y ^ values[i].z ^ values[i].w;
    }
  }
  // Never so for random data, but the compiler cannot know: the loads must stay.
  if (seen == 0x5eed5eedu) *sink = seen;
}

unsigned grid_for(int64_t count, int64_t per_block) {
  return static_cast<unsigned>(std::clamp<int64_t>((count + per_block - 1) / per_block, 1, 4096));
}

template <typename Place>
void fill(KvType type, void* values, int64_t count, uint64_t seed, float scale, Place place,
          cudaStream_t stream) {
  if (count <= 0) return;
  const unsigned grid = grid_for(count, kThreads);
  if (type == KvType::kBF16) {
    fill_random_kernel<<<grid, kThreads, 0, stream>>>(static_cast<__nv_bfloat16*>(values), count,
                                                      seed, scale, place);
  } else {
    fill_random_kernel<<<grid, kThreads, 0, stream>>>(static_cast<__half*>(values), count, seed,
                                                      scale, place);
  }
  check_cuda(cudaGetLastError(), "fill_random");
}

}  // namespace

void fill_random(KvType type, void* values, int64_t count, uint64_t seed, float scale,
                 cudaStream_t stream) {
  fill(type, values, count, seed, scale, InOrder{}, stream);
}

void fill_random_pages(const KvGeometry& kv, bool token_major, void* values, int64_t pages,
                       uint64_t seed, float scale, cudaStream_t stream) {
  const int64_t count = pages * kv.slot();
  if (token_major) {
    fill(kv.type, values, count, seed, scale, HeadMajorOf{kv}, stream);
  } else {
    fill(kv.type, values, count, seed, scale, InOrder{}, stream);
  }
}

void fill_constant(float* values, int64_t count, float value, cudaStream_t stream) {
  if (count <= 0) return;
  fill_constant_kernel<<<grid_for(count, kThreads), kThreads, 0, stream>>>(values, count, value);
  check_cuda(cudaGetLastError(), "fill_constant");
}

void read_once(const void* data, size_t bytes, uint32_t* sink, cudaStream_t stream) {
  check_argument(bytes % 16 == 0, "bytes is {}, must be a multiple of 16", bytes);
  if (bytes == 0) return;
  const auto count = static_cast<int64_t>(bytes / 16);
  read_once_kernel<<<grid_for(count, kThreads * 8), kThreads, 0, stream>>>(
      static_cast<const uint4*>(data), count, sink);
  check_cuda(cudaGetLastError(), "read_once");
}

}  // namespace freekv::cuda
