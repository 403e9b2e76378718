#include "backends/cuda/collect_pages.hpp"

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/prefill_attention.hpp"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

// A thread per 16 bytes of what is read, in order: reads may cross the bus. Writes are runs of a
// head's row.
namespace freekv::cuda {
namespace {

constexpr int kThreads = 256;

template <int kDim>
__global__ void __launch_bounds__(kThreads)
    collect_pages_kernel(const __grid_constant__ CollectPagesParams p, int stride) {
  const KvGeometry& kv = p.kv;
  const SequenceLayer& layer = p.layer;
  const bool head_major = layer.budgeted && !layer.token_major;
  int64_t rest = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const auto next = [&rest](int count) {
    const auto part = static_cast<int>(rest % count);
    rest /= count;
    return part;
  };
  const int unit = next(kRowUnits<kDim>);
  int token = 0, head = 0;
  bool value = false;
  if (head_major) {  // [page][M][K|V][p][d]
    token = next(kv.page);
    value = next(2) != 0;
    head = next(kv.kv_heads);
  } else {  // [page][K|V][p][M][d]
    head = next(kv.kv_heads);
    token = next(kv.page);
    value = next(2) != 0;
  }
  const auto page = static_cast<int32_t>(p.first / kv.page + rest);
  const int64_t position = int64_t{page} * kv.page + token;
  if (position < p.first || position >= p.end) return;
  const bool complete = (int64_t{page} + 1) * kv.page <= p.held;
  const void* tier = layer.fast;
  int32_t slot = page;
  if (layer.budgeted && complete) tier = layer.slow;
  if (layer.budgeted && !complete) slot = p.map.common_slot(page);
  int64_t from = value ? kv.fast_value(slot, token, head) : kv.fast_key(slot, token, head);
  if (head_major && complete) {
    from = kv.slow_head_page(page, head) + int64_t{(value ? kv.page : 0) + token} * kDim;
  }
  const int64_t to = ((position - p.first) * kv.kv_heads + head) * stride + unit * kUnitValues;
  *unit_at(value ? p.value : p.key, to) = *unit_at(tier, from + unit * kUnitValues);
}

}  // namespace

void collect_pages(const CollectPagesParams& params, cudaStream_t stream) {
  const KvGeometry& kv = params.kv;
  check_head_pages(kv, params.map);
  check_argument(params.first >= 0 && params.first <= params.end && params.end <= params.held,
                 "tokens {} to {} are to be taken from a sequence of {}", params.first, params.end,
                 params.held);
  if (params.first == params.end) return;
  const int64_t pages = params.map.pages(params.end) - params.first / kv.page;
  const int64_t units = pages * kv.slot() / kUnitValues;
  const auto blocks = static_cast<unsigned>((units + kThreads - 1) / kThreads);
  const int stride = prefill_head_dim(kv.head_dim);
  with_head_dim(kv.head_dim, [&](auto dim) {
    collect_pages_kernel<dim()><<<blocks, kThreads, 0, stream>>>(params, stride);
  });
  check_cuda(cudaGetLastError(), "collect_pages");
}

}  // namespace freekv::cuda
