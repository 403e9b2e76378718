// cover_rest() of selection.hpp: behind attention, the rest of what cover_pages() chose becomes
// resident. A CTA per row.
#include "backends/cuda/cover_row.cuh"
#include "backends/cuda/launch.cuh"

namespace freekv::cuda {
namespace {

using namespace cover;

/// It runs beside a matrix product, and fits what that leaves free (choose_pages.cu).
constexpr int kRegisters = 32;

// The tables are those of cover_pages() in the same step: read after the wait only.
__global__ void __maxnreg__(kRegisters)
    cover_rest_kernel(const __grid_constant__ SelectParams params, const SharedSizes sizes) {
  extern __shared__ uint4 cover_memory[];
  __shared__ SelectShared shared;
  let_next_start();
  const Row row(params);
  const RowLists lists(reinterpret_cast<unsigned char*>(cover_memory), sizes, row.k,
                       params.map.resident);
  auto* keys = reinterpret_cast<unsigned long long*>(cover_memory);
  wait_for_previous();
  if (params.mode[row.at] == RowMode::kDense) {
    if (threadIdx.x == 0) params.move_count[row.at] = 0;
    return;
  }
  const RowSlots slots(row.layer, row.head, params.map.resident, lists.slots);
  slots.load();
  clear_bits(lists, slots.resident);
  const int count = row.layer.chosen_count[row.head];
  const int32_t* chosen = row.layer.chosen + int64_t{row.head} * row.k;
  for (int i = threadIdx.x; i < count; i += kThreads) lists.chosen[i] = chosen[i];
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    lists.place[i] = slots.slot_of(lists.chosen[i]);
  }
  __syncthreads();
  const auto is_missing = [&](int i) { return lists.place[i] < 0; };
  const int missing = compact(count, shared, is_missing, [](int, int) {});
  if (threadIdx.x == 0) params.move_count[row.at] = missing;
  if (missing == 0) return;
  const uint32_t now = row.layer.clock[row.head] + 1;
  keep_present(slots, lists, count, now);
  __syncthreads();
  bring_in(params, row, slots, lists, count, now, sizes.sort, keys, shared, is_missing);
  if (threadIdx.x != 0) return;
  row.layer.clock[row.head] = now;
  RowCounters* counters = row.counters(params);
  if (counters) add_to(counters->misses_after, missing);
}

}  // namespace

void cover_rest(const SelectParams& params, cudaStream_t stream) {
  const int64_t rows = int64_t{params.batch.n} * params.kv.kv_heads;
  if (rows == 0) return;
  const SharedSizes sizes = shared_sizes(params, false);
  check(params, sizes);
  allow_shared(cover_rest_kernel);
  launch_early(cover_rest_kernel, static_cast<unsigned>(rows), kThreads, sizes.bytes, stream,
               params, sizes);
}

}  // namespace freekv::cuda
