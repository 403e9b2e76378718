// choose_pages() of selection.hpp: pooling, top-k and the choice of slots.
#include <algorithm>
#include <bit>
#include <cmath>

#include "backends/cuda/block_select.cuh"
#include "backends/cuda/forced_churn.cuh"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kMaxGroup = 16;
/// What a matrix product leaves free on an SM for a CTA of kSelectThreads (gemv.cu).
constexpr int kRegisters = 32;
/// Pooled values of up to so many candidates stay in shared memory; more are read from scratch.
constexpr int kSharedValues = 16384;
/// With the static part below what every chip from sm_80 on gives a CTA (99 KiB).
constexpr size_t kMaxShared = size_t{92} << 10;

// Dynamic shared memory: one area that the pooled values and the sort of the victims use in turn,
// then lists of one row.
struct SharedSizes {
  int values = 0;         // pooled values that fit
  int sort = 0;           // a power of two, the resident slots or more
  size_t area_bytes = 0;  // a multiple of 16
  size_t bytes = 0;
};

struct RowLists {
  int32_t* chosen;   // [k] pages, ascending
  int32_t* place;    // [k] the slot of each, or -1
  int32_t* missing;  // [k] pages that are not resident
  uint32_t* in_use;  // [resident / 32] bits: slots whose page is selected
  // [resident]: copies of the row's tables as the last selection left them
  int32_t* page_in_slot;
  uint32_t* last_use;
};

// One row of the batch, and what all threads of its CTA know about it.
struct Row {
  int at;  // r
  int b;
  int head;
  int n;  // candidates
  int k;
  SequenceLayer layer;
  uint32_t clock;  // of the last selection
};

__device__ RowLists row_lists(unsigned char* memory, const SharedSizes& sizes, int k,
                              int resident) {
  auto* lists = reinterpret_cast<int32_t*>(memory + sizes.area_bytes);
  int32_t* tables = lists + 3 * k;
  return {lists,         lists + k,
          lists + 2 * k, reinterpret_cast<uint32_t*>(tables + 2 * resident),
          tables,        reinterpret_cast<uint32_t*>(tables + resident)};
}

// Only the row's own selections write its tables, so that they can be read before the kernel in
// front has ended.
__device__ void copy_tables(const Row& row, int resident, const RowLists& lists) {
  if (!row.layer.budgeted) return;
  const int64_t first = int64_t{row.head} * resident;
  for (int slot = threadIdx.x; slot < resident; slot += kSelectThreads) {
    lists.page_in_slot[slot] = row.layer.page_in_slot[first + slot];
    lists.last_use[slot] = row.layer.last_use[first + slot];
  }
}

// --- pooling over the group ----------------------------------------------------------------------

// What turns a head's scores into its softmax over all candidates.
struct HeadSoftmax {
  float highest;
  float inverse;  // of the sum
};

// By one warp, in an order that depends on n only.
__device__ HeadSoftmax join_splits(const SplitSoftmax* splits, int count, float factor) {
  const int lane = threadIdx.x % 32;
  float highest = -INFINITY;
  for (int i = lane; i < count; i += 32) highest = fmaxf(highest, splits[i].highest);
#pragma unroll
  for (int offset = 16; offset >= 1; offset /= 2) {
    highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, offset));
  }
  float sum = 0;
  for (int i = lane; i < count; i += 32) {
    sum += splits[i].sum * exp2f((splits[i].highest - highest) * factor);
  }
  return {highest, 1.0f / sum_of_warp(sum)};
}

template <Pooling kRule>
__device__ float pool_one(float pooled, float score, const HeadSoftmax& softmax, float factor) {
  if constexpr (has_softmax(kRule)) {
    score = exp2f((score - softmax.highest) * factor) * softmax.inverse;
  }
  constexpr bool kMean = kRule == Pooling::kMeanSoftmax || kRule == Pooling::kMeanScore;
  return kMean ? pooled + score : fmaxf(pooled, score);
}

// Four candidates at a time; up to three values past n are written, within the padded stride.
template <Pooling kRule>
__device__ void pool(const SelectParams& params, const Row& row, const HeadSoftmax* softmax,
                     float* values) {
  constexpr bool kMean = kRule == Pooling::kMeanSoftmax || kRule == Pooling::kMeanScore;
  const SelectionScratch scratch(params);
  const int group = params.kv.group;
  const float factor = params.scale * kLog2E;
  const float start = kMean ? 0.0f : -INFINITY;
  const float divisor = kMean ? static_cast<float>(group) : 1.0f;
  const float* scores = scratch.row_scores(row.at, 0);
  float* pooled = scratch.row_pooled(row.at);
  for (int i = 4 * static_cast<int>(threadIdx.x); i < row.n; i += 4 * kSelectThreads) {
    float4 sum = {start, start, start, start};
#pragma unroll 4
    for (int g = 0; g < group; ++g) {
      const float4 score = *reinterpret_cast<const float4*>(scores + g * scratch.stride + i);
      sum.x = pool_one<kRule>(sum.x, score.x, softmax[g], factor);
      sum.y = pool_one<kRule>(sum.y, score.y, softmax[g], factor);
      sum.z = pool_one<kRule>(sum.z, score.z, softmax[g], factor);
      sum.w = pool_one<kRule>(sum.w, score.w, softmax[g], factor);
    }
    sum = {sum.x / divisor, sum.y / divisor, sum.z / divisor, sum.w / divisor};
    *reinterpret_cast<float4*>(values + i) = sum;
    if (values != pooled) *reinterpret_cast<float4*>(pooled + i) = sum;  // read by tests
  }
}

__device__ void pool_scores(const SelectParams& params, const Row& row, float* values) {
  __shared__ HeadSoftmax softmax[kMaxGroup];
  const int warp = threadIdx.x / 32;
  for (int g = warp; has_softmax(params.pooling) && g < params.kv.group; g += kSelectWarps) {
    const SelectionScratch scratch(params);
    const int splits = (row.n + kScoreSplit - 1) / kScoreSplit;
    const HeadSoftmax joined =
        join_splits(scratch.row_splits(row.at, g), splits, params.scale * kLog2E);
    if (threadIdx.x % 32 == 0) softmax[g] = joined;
  }
  __syncthreads();
  switch (params.pooling) {
    case Pooling::kMeanSoftmax:
      pool<Pooling::kMeanSoftmax>(params, row, softmax, values);
      break;
    case Pooling::kMaxSoftmax:
      pool<Pooling::kMaxSoftmax>(params, row, softmax, values);
      break;
    case Pooling::kMeanScore:
      pool<Pooling::kMeanScore>(params, row, softmax, values);
      break;
    case Pooling::kMaxScore:
      pool<Pooling::kMaxScore>(params, row, softmax, values);
      break;
  }
  __syncthreads();
}

// --- which pages ---------------------------------------------------------------------------------

// What forced churn puts in the place of pooled scores.
__device__ void draw_values(const SelectParams& params, const Row& row, const RowLists& lists,
                            float* values) {
  const auto sequence = static_cast<uint64_t>(params.batch.sequence[row.b]);
  uint64_t seed = mixed(static_cast<uint64_t>(params.batch.length(row.b)));
  seed = mixed(seed + static_cast<uint64_t>(params.layer));
  seed = mixed(seed + sequence);
  seed = mixed(seed + static_cast<uint64_t>(row.head));
  const Churn churn{seed, params.forced_churn};
  for (int i = threadIdx.x; i < row.n; i += kSelectThreads) values[i] = churn.fresh(i);
  __syncthreads();
  const int resident = row.layer.budgeted ? params.map.resident : 0;
  for (int slot = threadIdx.x; slot < resident; slot += kSelectThreads) {
    const int32_t i = lists.page_in_slot[slot] - params.map.sink;
    const bool selected = i >= 0 && i < row.n && lists.last_use[slot] == row.clock;
    if (selected) values[i] = churn.selected(i);
  }
  __syncthreads();
}

// The k best candidates, more than k of them, to lists.chosen.
__device__ void choose_best(const SelectParams& params, const Row& row, const SharedSizes& sizes,
                            float* area, SelectShared& shared, const RowLists& lists) {
  for (int i = threadIdx.x; i < 4 * 256; i += kSelectThreads) {
    shared.histogram[i / 256][i % 256] = 0;
  }
  float* values = row.n <= sizes.values ? area : SelectionScratch(params).row_pooled(row.at);
  pool_scores(params, row, values);
  if (params.forced_churn >= 0) draw_values(params, row, lists, values);
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
  compact(
      row.n, shared,
      [&](int i) {
        const uint32_t order = order_of(values[i]);
        return order > kth.order || (order == kth.order && i <= last_equal);
      },
      [&](int rank, int i) { lists.chosen[rank] = params.map.sink + i; });
}

// --- which slots ---------------------------------------------------------------------------------

// The slot that holds a page, or -1. So few slots are looked through faster than memory answers.
__device__ int32_t slot_of(const Row& row, int resident, const RowLists& lists, int32_t page) {
  constexpr int kFew = 256;
  if (resident > kFew) {
    return row.layer.slot_of_page[int64_t{row.head} * row.layer.max_pages + page];
  }
  int32_t found = -1;
#pragma unroll 8
  for (int slot = 0; slot < resident; ++slot) {
    if (lists.page_in_slot[slot] == page) found = slot;
  }
  return found;
}

// Marks what of the selection is resident as used at `now`, and lists the rest; returns how many.
__device__ int find_missing(const Row& row, int count, int resident, uint32_t now,
                            const RowLists& lists, SelectShared& shared) {
  uint32_t* last_use = row.layer.last_use + int64_t{row.head} * resident;
  for (int i = threadIdx.x; i < (resident + 31) / 32; i += kSelectThreads) lists.in_use[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kSelectThreads) {
    const int32_t slot = slot_of(row, resident, lists, lists.chosen[i]);
    lists.place[i] = slot;
    if (slot < 0) continue;
    atomicOr(&lists.in_use[slot / 32], 1u << slot % 32);
    last_use[slot] = now;
  }
  __syncthreads();
  return compact(
      count, shared, [&](int i) { return lists.place[i] < 0; },
      [&](int rank, int i) { lists.missing[rank] = lists.chosen[i]; });
}

__device__ bool has_bit(const uint32_t* bits, int i) { return (bits[i / 32] >> i % 32 & 1u) != 0; }

// Slots in the order in which they are given up, as PageTable::plan() takes them; those in use
// last.
__device__ void order_victims(int resident, const SharedSizes& sizes, const RowLists& lists,
                              unsigned long long* keys) {
  for (int slot = threadIdx.x; slot < sizes.sort; slot += kSelectThreads) {
    unsigned long long key = ~0ull;
    if (slot < resident && !has_bit(lists.in_use, slot)) {
      const unsigned long long holds = lists.page_in_slot[slot] >= 0;
      key = holds << 63 | static_cast<unsigned long long>(lists.last_use[slot]) << 31 |
            static_cast<unsigned long long>(slot);
    }
    keys[slot] = key;
  }
  __syncthreads();
  sort_ascending(keys, sizes.sort);
}

// PageTable::plan() and commit(); returns the number of moves.
__device__ int make_resident(const SelectParams& params, const Row& row, int count,
                             const SharedSizes& sizes, unsigned long long* keys,
                             const RowLists& lists, SelectShared& shared) {
  const int resident = params.map.resident;
  const uint32_t now = row.clock + 1;
  const int missing = find_missing(row, count, resident, now, lists, shared);
  if (threadIdx.x == 0) row.layer.clock[row.head] = now;
  if (missing == 0) return 0;
  order_victims(resident, sizes, lists, keys);

  int32_t* slot_of_page = row.layer.slot_of_page + int64_t{row.head} * row.layer.max_pages;
  int32_t* page_in_slot = row.layer.page_in_slot + int64_t{row.head} * resident;
  uint32_t* last_use = row.layer.last_use + int64_t{row.head} * resident;
  for (int i = threadIdx.x; i < missing; i += kSelectThreads) {
    const auto slot = static_cast<int32_t>(keys[i] & 0x7fffffffu);
    const int32_t page = lists.missing[i], victim = lists.page_in_slot[slot];
    if (victim >= 0) slot_of_page[victim] = -1;  // never a page that another thread brings in
    slot_of_page[page] = slot;
    page_in_slot[slot] = page;
    last_use[slot] = now;
    params.moves[int64_t{row.at} * row.k + i] = {page, slot};
  }
  return missing;
}

__device__ void count_selection(const SelectParams& params, const Row& row, int count, int moves) {
  if (params.counters == nullptr) return;
  RowCounters& counters =
      params.counters[int64_t{params.batch.sequence[row.b]} * params.kv.kv_heads + row.head];
  counters.selections += 1;
  counters.pages_selected += static_cast<unsigned long long>(count);
  (params.ahead == 0 ? counters.misses_before : counters.misses_after) +=
      static_cast<unsigned long long>(moves);
}

// One CTA per row.
__global__ void __maxnreg__(kRegisters)
    choose_kernel(const __grid_constant__ SelectParams params, const SharedSizes sizes) {
  extern __shared__ uint4 choose_memory[];
  __shared__ SelectShared shared;
  let_next_start();
  const auto at = static_cast<int>(blockIdx.x);
  const int b = at / params.kv.kv_heads;
  const Row row{at,
                b,
                at % params.kv.kv_heads,
                row_candidates(params, b),
                params.map.selected,
                params.batch.layer(b, params.layer),
                params.batch.layer(b, params.layer).budgeted
                    ? params.batch.layer(b, params.layer).clock[at % params.kv.kv_heads]
                    : 0};
  const RowLists lists =
      row_lists(reinterpret_cast<unsigned char*>(choose_memory), sizes, row.k, params.map.resident);
  copy_tables(row, params.map.resident, lists);
  wait_for_previous();
  if (params.mode[at] != params.which) {
    if (threadIdx.x == 0) params.move_count[at] = 0;
    return;
  }
  __syncthreads();

  const int count = min(max(row.n, 0), row.k);
  if (row.n > row.k) {
    choose_best(params, row, sizes, reinterpret_cast<float*>(choose_memory), shared, lists);
  } else {
    for (int i = threadIdx.x; i < count; i += kSelectThreads) lists.chosen[i] = params.map.sink + i;
    __syncthreads();
  }

  int moves = 0;
  if (row.layer.budgeted) {
    moves = make_resident(params, row, count, sizes,
                          reinterpret_cast<unsigned long long*>(choose_memory), lists, shared);
  }
  int32_t* selected = row.layer.selected + int64_t{row.head} * row.k;
  for (int i = threadIdx.x; i < count; i += kSelectThreads) selected[i] = lists.chosen[i];
  if (threadIdx.x != 0) return;
  row.layer.selected_count[row.head] = count;
  params.move_count[row.at] = moves;
  count_selection(params, row, count, moves);
}

SharedSizes shared_sizes(const SelectParams& params) {
  const auto resident = static_cast<unsigned>(params.map.resident);
  const auto k = static_cast<size_t>(params.map.selected);
  SharedSizes sizes;
  sizes.values = static_cast<int>(
      std::min<int64_t>(SelectionScratch::padded(params.max_candidates), kSharedValues));
  sizes.sort = static_cast<int>(std::max(64u, std::bit_ceil(resident)));
  size_t area = std::max(static_cast<size_t>(sizes.values) * sizeof(float),
                         static_cast<size_t>(sizes.sort) * sizeof(unsigned long long));
  sizes.area_bytes = (area + 15) / 16 * 16;
  sizes.bytes = sizes.area_bytes + (3 * k + 2 * resident + (resident + 31) / 32) * sizeof(int32_t);
  return sizes;
}

}  // namespace

void choose_pages(const SelectParams& params, cudaStream_t stream) {
  const PageMap& map = params.map;
  check_argument(params.kv.group >= 1 && params.kv.group <= kMaxGroup,
                 "the group is {}, must be 1 to {}", params.kv.group, kMaxGroup);
  check_argument(map.selected >= 1 && map.resident >= map.selected,
                 "{} pages are selected and {} resident, must be one and as many at least",
                 map.selected, map.resident);
  check_argument(map.resident <= 1 << 20, "{} pages are resident, must be at most {}", map.resident,
                 1 << 20);
  const int64_t rows = int64_t{params.batch.n} * params.kv.kv_heads;
  if (rows == 0) return;
  const SharedSizes sizes = shared_sizes(params);
  check_argument(sizes.bytes <= kMaxShared,
                 "{} bytes of shared memory for {} selected and {} resident pages, must be at most "
                 "{}",
                 sizes.bytes, map.selected, map.resident, kMaxShared);
  // Always the same limit: threads that launch at the same time must not lower each other's.
  check_cuda(cudaFuncSetAttribute(choose_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(kMaxShared)),
             "cudaFuncSetAttribute(choose_pages)");
  launch_early(choose_kernel, static_cast<unsigned>(rows), kSelectThreads, sizes.bytes, stream,
               params, sizes);
}

}  // namespace freekv::cuda
