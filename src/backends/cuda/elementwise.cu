#include "backends/cuda/elementwise.hpp"

#include <algorithm>
#include <cstdint>

#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_of(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

// Block (token, part of the row).
__global__ void __launch_bounds__(kThreads) embed_kernel(EmbedParams p) {
  const int row = static_cast<int>(blockIdx.x);
  const int at = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  if (at >= p.hidden) return;
  const uint32_t bits =
      static_cast<const uint16_t*>(p.table)[int64_t{p.ids[row]} * p.hidden + at];  // bf16
  p.out[int64_t{row} * p.hidden + at] = __uint_as_float(bits << 16);
}

__global__ void __launch_bounds__(kThreads) advance_kernel(AdvanceParams p) {
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i < p.n) p.tokens[p.sequence[i]] += 1;
  if (i < p.products) p.taken[i] = 0;
}

}  // namespace

void embed(const EmbedParams& params, cudaStream_t stream) {
  check_argument(params.n >= 0 && params.hidden >= 1,
                 "embed: {} rows of {} values, must be at least 0 of 1", params.n, params.hidden);
  if (params.n == 0) return;
  const dim3 blocks(static_cast<unsigned>(params.n), blocks_of(params.hidden));
  embed_kernel<<<blocks, kThreads, 0, stream>>>(params);
  check_cuda(cudaGetLastError(), "embed");
}

void advance(const AdvanceParams& params, cudaStream_t stream) {
  check_argument(params.n >= 0 && params.products >= 0,
                 "advance: n is {} and products {}, must be at least 0", params.n, params.products);
  const int32_t threads = std::max(params.n, params.products);
  if (threads == 0) return;
  advance_kernel<<<blocks_of(threads), kThreads, 0, stream>>>(params);
  check_cuda(cudaGetLastError(), "advance");
}

}  // namespace freekv::cuda
