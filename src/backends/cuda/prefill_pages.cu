#include "backends/cuda/prefill_pages.hpp"

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/prefill_attention.hpp"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

// A thread per 16 bytes of what is written, in order; reads are runs of a head's row.
namespace freekv::cuda {
namespace {

constexpr int kThreads = 256;

__device__ int64_t thread_index() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

__device__ uint4 read_unit(const LayerKv& from, bool value, int64_t token, int head, int unit,
                           int stride) {
  const void* values = value ? from.value : from.key;
  return *unit_at(values, (token * from.kv.kv_heads + head) * stride + unit * kUnitValues);
}

template <int kDim>
__global__ void __launch_bounds__(kThreads)
    pack_pages_kernel(const __grid_constant__ LayerKv from, int32_t first, int32_t count, void* to,
                      int stride) {
  const int64_t at = thread_index();
  const int page = from.kv.page, kv_heads = from.kv.kv_heads;
  int64_t rest = at;
  const int unit = static_cast<int>(rest % kRowUnits<kDim>);
  rest /= kRowUnits<kDim>;
  const int token = static_cast<int>(rest % page);
  rest /= page;
  const bool value = rest % 2 != 0;
  rest /= 2;
  const int head = static_cast<int>(rest % kv_heads);
  rest /= kv_heads;
  if (rest >= count) return;
  static_cast<uint4*>(to)[at] =
      read_unit(from, value, (first + rest) * page + token, head, unit, stride);
}

template <int kDim>
__global__ void __launch_bounds__(kThreads)
    place_pages_kernel(const __grid_constant__ PlacePagesParams p, int stride) {
  const KvGeometry& kv = p.from.kv;
  int64_t rest = thread_index();
  const int unit = static_cast<int>(rest % kRowUnits<kDim>);
  rest /= kRowUnits<kDim>;
  const int head = static_cast<int>(rest % kv.kv_heads);
  rest /= kv.kv_heads;
  const int token = static_cast<int>(rest % kv.page);
  rest /= kv.page;
  const bool value = rest % 2 != 0;
  rest /= 2;
  if (rest >= p.count) return;
  int32_t page = static_cast<int32_t>(p.first + rest), slot = page;
  if (p.moves) {
    page = p.moves[rest].page;
    slot = p.first_slot + p.moves[rest].slot;
  }
  const int64_t position = int64_t{page} * kv.page + token;
  const int64_t place = value ? kv.fast_value(slot, token, head) : kv.fast_key(slot, token, head);
  *unit_at(p.fast, place + unit * kUnitValues) =
      position < p.from.tokens ? read_unit(p.from, value, position, head, unit, stride)
                               : uint4{0, 0, 0, 0};
}

unsigned blocks_of(const KvGeometry& kv, int32_t count) {
  const int64_t units = count * kv.slot() / kUnitValues;
  return static_cast<unsigned>((units + kThreads - 1) / kThreads);
}

}  // namespace

void pack_pages(const LayerKv& from, int32_t first, int32_t count, void* to, cudaStream_t stream) {
  const int stride = prefill_head_dim(from.kv.head_dim);
  check_argument(first >= 0 && count >= 0 && (int64_t{first} + count) * from.kv.page <= from.tokens,
                 "pages [{}, {}) are asked for, {} tokens complete {}", first,
                 int64_t{first} + count, from.tokens, from.tokens / from.kv.page);
  if (count == 0) return;
  with_head_dim(from.kv.head_dim, [&](auto dim) {
    pack_pages_kernel<dim()>
        <<<blocks_of(from.kv, count), kThreads, 0, stream>>>(from, first, count, to, stride);
  });
  check_cuda(cudaGetLastError(), "pack_pages");
}

void place_pages(const PlacePagesParams& params, cudaStream_t stream) {
  const KvGeometry& kv = params.from.kv;
  const int stride = prefill_head_dim(kv.head_dim);
  check_argument(params.count >= 0, "{} pages are to be placed", params.count);
  if (params.count == 0) return;
  with_head_dim(kv.head_dim, [&](auto dim) {
    place_pages_kernel<dim()><<<blocks_of(kv, params.count), kThreads, 0, stream>>>(params, stride);
  });
  check_cuda(cudaGetLastError(), "place_pages");
}

}  // namespace freekv::cuda
