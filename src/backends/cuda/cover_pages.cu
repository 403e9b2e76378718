// cover_pages() and cover_rest() of selection.hpp: selection by attention mass, and which of the
// missing pages attention waits for. A CTA per row.
#include <algorithm>
#include <bit>
#include <cmath>

#include "backends/cuda/block_select.cuh"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/pooling.cuh"
#include "backends/cuda/row_slots.cuh"
#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kMaxGroup = 16;
constexpr int kThreads = 256;
/// cover_rest() runs beside a matrix product, and fits what that leaves free (choose_pages.cu).
constexpr int kRegisters = 32;
/// Masses of up to so many candidates stay in shared memory; more are read from scratch.
constexpr int kSharedValues = 8192;
constexpr size_t kMaxShared = size_t{92} << 10;

// Dynamic shared memory: one area that masses and the keys of sorts use in turn, then lists of one
// row.
struct SharedSizes {
  int values = 0;         // masses that fit
  int sort = 0;           // a power of two, the resident slots or more
  size_t area_bytes = 0;  // a multiple of 16
  size_t bytes = 0;
};

struct RowLists {
  int32_t* chosen;     // [k] pages, ascending
  int32_t* place;      // [k] the slot of each, or -1
  float* mass;         // [k] of each
  int32_t* waits;      // [k] whether attention waits for it
  uint32_t* attended;  // [resident / 32] bits: slots whose page is attended to
  int32_t* slots;      // of RowSlots

  __device__ RowLists(unsigned char* memory, const SharedSizes& sizes, int k, int resident)
      : chosen(reinterpret_cast<int32_t*>(memory + sizes.area_bytes)),
        place(chosen + k),
        mass(reinterpret_cast<float*>(place + k)),
        waits(place + 2 * k),
        attended(reinterpret_cast<uint32_t*>(place + 3 * k)),
        slots(reinterpret_cast<int32_t*>(attended + RowSlots::words(resident))) {}
  static size_t bytes(int k, int resident) {
    const int words = 4 * k + 2 * RowSlots::words(resident) + 2 * resident;
    return static_cast<size_t>(words) * sizeof(int32_t);
  }
};

// One row of the batch, and what all threads of its CTA know about it.
struct Row {
  int at;  // r
  int b;
  int head;
  int n;  // candidates
  int k;
  SequenceLayer layer;

  __device__ explicit Row(const SelectParams& params)
      : at(static_cast<int>(blockIdx.x)),
        b(at / params.kv.kv_heads),
        head(at % params.kv.kv_heads),
        n(max(row_candidates(params, b), 0)),
        k(params.map.selected),
        layer(params.batch.layer(b, params.layer)) {}

  __device__ RowCounters* counters(const SelectParams& params) const {
    if (params.counters == nullptr) return nullptr;
    return params.counters + int64_t{params.batch.sequence[b]} * params.kv.kv_heads + head;
  }
};

struct CoverShared {
  SelectShared select;
  HeadSoftmax softmax[kMaxGroup];  // of a head's scores
  float common[kMaxGroup];         // its attention to sink and window
  int recalled;
};

// --- attention mass ------------------------------------------------------------------------------

// By one warp: a head's softmax over candidates, sink and window, in an order that depends on the
// length only.
__device__ void join_parts(const SelectParams& params, const Row& row, int g, CoverShared& shared) {
  const SelectionScratch scratch(params);
  const SplitSoftmax* splits = scratch.row_splits(row.at, g);
  const SplitSoftmax* common = scratch.row_common(row.at, g);
  const int split_count = (row.n + kScoreSplit - 1) / kScoreSplit;
  const int common_count = params.map.common_count(params.batch.length(row.b));
  const int lane = threadIdx.x % 32;
  float highest = -INFINITY;
  for (int i = lane; i < split_count; i += 32) highest = fmaxf(highest, splits[i].highest);
  for (int i = lane; i < common_count; i += 32) highest = fmaxf(highest, common[i].highest);
#pragma unroll
  for (int offset = 16; offset >= 1; offset /= 2) {
    highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, offset));
  }
  const auto part = [&](const SplitSoftmax& split) {
    return split.sum * exp2f((split.highest - highest) * kLog2E);
  };
  float of_candidates = 0, of_common = 0;
  for (int i = lane; i < split_count; i += 32) of_candidates += part(splits[i]);
  for (int i = lane; i < common_count; i += 32) of_common += part(common[i]);
  of_candidates = sum_of_warp(of_candidates);
  of_common = sum_of_warp(of_common);
  if (lane != 0) return;
  const float inverse = 1.0f / (of_candidates + of_common);
  shared.softmax[g] = {highest, inverse};
  shared.common[g] = of_common * inverse;
}

// The candidates' masses, the mean over the group, to `values` and to the scratch. Four at a time;
// up to three values past n are written, within the padded stride.
__device__ void pool_masses(const SelectParams& params, const Row& row, CoverShared& shared,
                            float* values) {
  const int group = params.kv.group;
  for (int g = threadIdx.x / 32; g < group; g += kThreads / 32) join_parts(params, row, g, shared);
  __syncthreads();
  const SelectionScratch scratch(params);
  const float* scores = scratch.row_scores(row.at, 0);
  float* pooled = scratch.row_pooled(row.at);
  for (int i = 4 * static_cast<int>(threadIdx.x); i < row.n; i += 4 * kThreads) {
    const float4 mass =
        pool_four<Pooling::kMeanSoftmax>(scores + i, scratch.stride, group, shared.softmax, kLog2E);
    *reinterpret_cast<float4*>(values + i) = mass;
    if (values != pooled) *reinterpret_cast<float4*>(pooled + i) = mass;
  }
  __syncthreads();
}

// --- which pages ---------------------------------------------------------------------------------

// The heaviest candidates, all if there are no more than k, to lists.chosen; returns how many.
__device__ int choose_heaviest(const SelectParams& params, const Row& row, const float* values,
                               SelectShared& shared, const RowLists& lists) {
  const int sink = params.map.sink;
  if (row.n <= row.k) {
    for (int i = threadIdx.x; i < row.n; i += kThreads) lists.chosen[i] = sink + i;
    return row.n;
  }
  const Kth kth = kth_largest(values, row.n, row.k, shared);
  int last_equal = row.n;  // of equals the lower pages are taken, up to this one
  if (kth.taken < kth.equals) {
    compact(
        row.n, shared, [&](int i) { return order_of(values[i]) == kth.order; },
        [&](int rank, int i) {
          if (rank == kth.taken - 1) shared.last_equal = i;
        });
    last_equal = shared.last_equal;
  }
  return compact(
      row.n, shared,
      [&](int i) {
        const uint32_t order = order_of(values[i]);
        return order > kth.order || (order == kth.order && i <= last_equal);
      },
      [&](int rank, int i) { lists.chosen[rank] = sink + i; });
}

// --- which of them attention waits for -----------------------------------------------------------

// Sorts by mass, heaviest first, of equals the lower page. A mass is not negative, so that its bits
// are in its order.
__device__ unsigned long long key_of(float mass, int i) {
  return static_cast<unsigned long long>(~__float_as_uint(mass)) << 32 |
         static_cast<unsigned long long>(i);
}
__device__ float mass_of(unsigned long long key) {
  return __uint_as_float(~static_cast<uint32_t>(key >> 32));
}

// How many of the missing pages must be recalled so that the others weigh less than epsilon. With
// epsilon 0 that is all of them, also those of no mass. By one thread: they are few, and their sum
// is to be the host's.
__device__ int pages_to_wait_for(const unsigned long long* keys, int missing, double epsilon) {
  double left = 0;
  int count = missing;
  while (count > 0) {
    const double more = left + static_cast<double>(mass_of(keys[count - 1]));
    if (!(more < epsilon)) break;
    left = more;
    --count;
  }
  return count;
}

struct Missing {
  int count;
  int recalled;  // of them, before attention: those with lists.waits
};

__device__ Missing weigh_missing(const Row& row, int count, double epsilon, int most_keys,
                                 unsigned long long* keys, CoverShared& shared,
                                 const RowLists& lists) {
  for (int i = threadIdx.x; i < most_keys; i += kThreads) keys[i] = ~0ull;
  for (int i = threadIdx.x; i < count; i += kThreads) lists.waits[i] = 0;
  __syncthreads();
  const int missing = compact(
      count, shared.select, [&](int i) { return lists.place[i] < 0; },
      [&](int rank, int i) {
        // What is no number is taken for all there is, so that it is recalled.
        keys[rank] = key_of(lists.mass[i] >= 0 ? lists.mass[i] : 1.0f, i);
      });
  if (missing == 0) return {0, 0};
  int size = 64;
  while (size < missing) size *= 2;
  sort_ascending(keys, size);
  if (threadIdx.x == 0) shared.recalled = pages_to_wait_for(keys, missing, epsilon);
  __syncthreads();
  const int recalled = shared.recalled;
  for (int i = threadIdx.x; i < recalled; i += kThreads) {
    lists.waits[static_cast<uint32_t>(keys[i])] = 1;
  }
  __syncthreads();
  return {missing, recalled};
}

// Slots for the chosen pages that wanted(i) holds for, `count` of `chosen` in all; their moves in
// order of page. `keys`: room for a sort of all slots.
template <typename Wanted>
__device__ void bring_in(const SelectParams& params, const Row& row, const RowSlots& slots,
                         const RowLists& lists, int chosen, uint32_t now, int sort,
                         unsigned long long* keys, SelectShared& shared, Wanted wanted) {
  slots.order_victims(keys, sort);
  compact(chosen, shared, wanted, [&](int rank, int i) {
    const int32_t slot = RowSlots::victim(keys[rank]);
    slots.give(slot, lists.chosen[i], now);
    params.moves[int64_t{row.at} * row.k + rank] = {lists.chosen[i], slot};
  });
}

// --- what attention reads ------------------------------------------------------------------------

// Pages of the slots in lists.attended, ascending, to SequenceLayer::selected; returns how many.
__device__ int list_attended(const SelectParams& params, const Row& row, const RowSlots& slots,
                             const RowLists& lists, int most_keys, unsigned long long* keys,
                             SelectShared& shared) {
  for (int i = threadIdx.x; i < most_keys; i += kThreads) keys[i] = ~0ull;
  __syncthreads();
  const int count = compact(
      slots.resident, shared, [&](int slot) { return RowSlots::has_bit(lists.attended, slot); },
      [&](int rank, int slot) { keys[rank] = static_cast<unsigned long long>(slots.pages[slot]); });
  int size = 64;
  while (size < count) size *= 2;
  sort_ascending(keys, size);
  int32_t* selected = row.layer.selected + int64_t{row.head} * params.map.attended_selected();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    selected[i] = static_cast<int32_t>(keys[i]);
  }
  if (threadIdx.x == 0) row.layer.selected_count[row.head] = count;
  return count;
}

// By one warp: what the row loses that attends to sink, window and the pages of `keys`.
__device__ double lost_mass(const SelectParams& params, const Row& row, int count,
                            const unsigned long long* keys, const CoverShared& shared) {
  const float* pooled = SelectionScratch(params).row_pooled(row.at);
  const int lane = threadIdx.x % 32;
  float found = 0;
  for (int i = lane; i < count; i += 32) {
    found += pooled[static_cast<int32_t>(keys[i]) - params.map.sink];
  }
  float common = lane < params.kv.group ? shared.common[lane] : 0.0f;
  found = sum_of_warp(found);
  common = sum_of_warp(common) / static_cast<float>(params.kv.group);
  return fmax(0.0, 1.0 - (static_cast<double>(found) + static_cast<double>(common)));
}

__global__ void __launch_bounds__(kThreads)
    cover_kernel(const __grid_constant__ CoverParams cover, const SharedSizes sizes) {
  extern __shared__ uint4 cover_memory[];
  __shared__ CoverShared shared;
  let_next_start();
  const SelectParams& params = cover.select;
  const Row row(params);
  const RowLists lists(reinterpret_cast<unsigned char*>(cover_memory), sizes, row.k,
                       params.map.resident);
  auto* area = reinterpret_cast<float*>(cover_memory);
  auto* keys = reinterpret_cast<unsigned long long*>(cover_memory);
  wait_for_previous();
  if (params.mode[row.at] != RowMode::kCorrected) {
    if (threadIdx.x == 0) params.move_count[row.at] = 0;
    return;
  }
  const RowSlots slots(row.layer, row.head, params.map.resident, lists.slots);
  slots.load();
  slots.clear(lists.attended);
  clear_histogram(shared.select);
  float* values = row.n <= sizes.values ? area : SelectionScratch(params).row_pooled(row.at);
  pool_masses(params, row, shared, values);
  const int count = choose_heaviest(params, row, values, shared.select, lists);
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    lists.mass[i] = values[lists.chosen[i] - params.map.sink];
    lists.place[i] = slots.slot_of(lists.chosen[i]);
  }
  __syncthreads();
  const Missing missing = weigh_missing(row, count, cover.epsilon, sizes.sort, keys, shared, lists);

  // What is resident of the selection, and what attention waits for, are so from here on.
  const uint32_t now = row.layer.clock[row.head] + 1;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (lists.place[i] >= 0) slots.keep(lists.place[i], now);
  }
  __syncthreads();
  if (threadIdx.x == 0) row.layer.clock[row.head] = now;
  if (missing.recalled > 0) {
    bring_in(params, row, slots, lists, count, now, sizes.sort, keys, shared.select,
             [&](int i) { return lists.waits[i] != 0; });
  }
  const auto attend = [&](int32_t page) {
    const int32_t slot = slots.slot_of(page);
    if (slot >= 0) atomicOr(&lists.attended[slot / 32], 1u << slot % 32);
  };
  const int32_t* last = row.layer.chosen + int64_t{row.head} * row.k;
  for (int i = threadIdx.x; i < count; i += kThreads) attend(lists.chosen[i]);
  for (int i = threadIdx.x; i < row.layer.chosen_count[row.head]; i += kThreads) {
    attend(last[i]);
  }
  __syncthreads();
  const int attended = list_attended(params, row, slots, lists, sizes.sort, keys, shared.select);
  int32_t* chosen = row.layer.chosen + int64_t{row.head} * row.k;
  for (int i = threadIdx.x; i < count; i += kThreads) chosen[i] = lists.chosen[i];
  if (threadIdx.x >= 32) return;
  const double lost = lost_mass(params, row, attended, keys, shared);
  if (threadIdx.x != 0) return;
  row.layer.chosen_count[row.head] = count;
  params.move_count[row.at] = missing.recalled;
  cover.mode[row.at] = missing.recalled > 0 ? RowMode::kCorrected : RowMode::kSpeculative;
  RowCounters* counters = row.counters(params);
  if (counters == nullptr) return;
  counters->selections += 1;
  counters->tested += 1;
  counters->drifted += missing.recalled > 0 ? 1 : 0;
  counters->pages_selected += static_cast<unsigned long long>(count);
  counters->misses_before += static_cast<unsigned long long>(missing.recalled);
  counters->lost_mass += lost;
}

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
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (lists.place[i] >= 0) slots.keep(lists.place[i], now);
  }
  __syncthreads();
  bring_in(params, row, slots, lists, count, now, sizes.sort, keys, shared, is_missing);
  if (threadIdx.x != 0) return;
  row.layer.clock[row.head] = now;
  RowCounters* counters = row.counters(params);
  if (counters) counters->misses_after += static_cast<unsigned long long>(missing);
}

SharedSizes shared_sizes(const SelectParams& params, bool masses) {
  SharedSizes sizes;
  if (masses) {
    const int64_t values = SelectionScratch::padded(params.max_candidates);
    sizes.values = static_cast<int>(std::min<int64_t>(values, kSharedValues));
  }
  const auto resident = static_cast<unsigned>(params.map.resident);
  sizes.sort = static_cast<int>(std::max(64u, std::bit_ceil(resident)));
  sizes.area_bytes = std::max(static_cast<size_t>(sizes.values) * sizeof(float),
                              static_cast<size_t>(sizes.sort) * sizeof(unsigned long long));
  sizes.bytes = sizes.area_bytes + RowLists::bytes(params.map.selected, params.map.resident);
  return sizes;
}

void check(const SelectParams& params, const SharedSizes& sizes) {
  const PageMap& map = params.map;
  check_argument(params.mass && params.pooling == Pooling::kMeanSoftmax && params.scale == 1,
                 "pages are covered by attention mass, the mean of a softmax of scale {}", 1);
  check_argument(params.kv.group >= 1 && params.kv.group <= kMaxGroup,
                 "the group is {}, must be 1 to {}", params.kv.group, kMaxGroup);
  check_argument(map.selected >= 1 && map.resident >= map.selected,
                 "{} pages are selected and {} resident, must be one and as many at least",
                 map.selected, map.resident);
  check_argument(map.attended_selected() >= std::min(map.resident, 2 * map.selected),
                 "room for {} attended pages of {} selected and {} resident",
                 map.attended_selected(), map.selected, map.resident);
  check_argument(sizes.bytes <= kMaxShared,
                 "{} bytes of shared memory for {} selected and {} resident pages, must be at most "
                 "{}",
                 sizes.bytes, map.selected, map.resident, kMaxShared);
}

// Always the same limit: threads that launch at the same time must not lower each other's.
template <typename Kernel>
void allow_shared(Kernel kernel) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(kMaxShared)),
             "cudaFuncSetAttribute(cover_pages)");
}

}  // namespace

void cover_pages(const CoverParams& params, cudaStream_t stream) {
  const SelectParams& select = params.select;
  const int64_t rows = int64_t{select.batch.n} * select.kv.kv_heads;
  if (rows == 0) return;
  const SharedSizes sizes = shared_sizes(select, true);
  check(select, sizes);
  allow_shared(cover_kernel);
  launch_early(cover_kernel, static_cast<unsigned>(rows), kThreads, sizes.bytes, stream, params,
               sizes);
}

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
