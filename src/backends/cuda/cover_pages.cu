// cover_pages() of selection.hpp: selection by attention mass, and which of the missing pages
// attention waits for. A CTA per row.
#include <cmath>

#include "backends/cuda/cover_row.cuh"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/pooling.cuh"

namespace freekv::cuda {
namespace {

using namespace cover;

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
  const KBest best = k_best(values, row.n, row.k, shared);
  return compact(
      row.n, shared, [&](int i) { return best.has(i); },
      [&](int rank, int i) { lists.chosen[rank] = params.map.sink + i; });
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

// --- what attention reads ------------------------------------------------------------------------

// Pages of the slots in lists.attended, ascending, to SequenceLayer::selected; returns how many.
__device__ int list_attended(const SelectParams& params, const Row& row, const RowSlots& slots,
                             const RowLists& lists, int most_keys, unsigned long long* keys,
                             SelectShared& shared) {
  for (int i = threadIdx.x; i < most_keys; i += kThreads) keys[i] = ~0ull;
  __syncthreads();
  const int count = compact(
      slots.resident, shared, [&](int slot) { return has_bit(lists.attended, slot); },
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
  clear_bits(lists, slots.resident);
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
  keep_present(slots, lists, count, now);
  __syncthreads();
  if (threadIdx.x == 0) row.layer.clock[row.head] = now;
  if (missing.recalled > 0) {
    bring_in(params, row, slots, lists, count, now, sizes.sort, keys, shared.select,
             [&](int i) { return lists.waits[i] != 0; });
  }
  const auto attend = [&](int32_t page) {
    const int32_t slot = slots.slot_of(page);
    if (slot >= 0) set_bit(lists.attended, slot);
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
  add_to(counters->selections, 1);
  add_to(counters->tested, 1);
  add_to(counters->drifted, missing.recalled > 0 ? 1 : 0);
  add_to(counters->pages_selected, count);
  add_to(counters->misses_before, missing.recalled);
  atomicAdd(&counters->lost_mass, lost);
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

}  // namespace freekv::cuda
