// What the two kernels of coverage have in common: a row of the batch, its lists in shared memory,
// and bringing pages into its slots. Included by cover_pages.cu and cover_rest.cu alone.
#pragma once

#include <algorithm>
#include <bit>

#include "backends/cuda/row_slots.cuh"
#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda::cover {

inline constexpr int kMaxGroup = 16;
inline constexpr int kThreads = 256;
/// Masses of up to so many candidates stay in shared memory; more are read from scratch.
inline constexpr int kSharedValues = 8192;
inline constexpr size_t kMaxShared = size_t{92} << 10;

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
  uint32_t* kept;      // [words] bits: slots that are not given up
  uint32_t* attended;  // [words] bits: slots whose page is attended to
  int32_t* victims;    // [resident] slots in the order in which they are given up
  int32_t* slots;      // of RowSlots

  __device__ RowLists(unsigned char* memory, const SharedSizes& sizes, int k, int resident)
      : chosen(reinterpret_cast<int32_t*>(memory + sizes.area_bytes)),
        place(chosen + k),
        mass(reinterpret_cast<float*>(place + k)),
        waits(place + 2 * k),
        kept(reinterpret_cast<uint32_t*>(place + 3 * k)),
        attended(kept + words(resident)),
        victims(reinterpret_cast<int32_t*>(attended + words(resident))),
        slots(victims + resident) {}
  static size_t bytes(int k, int resident) {
    const int all = 4 * k + 2 * words(resident) + resident + RowSlots::words(resident);
    return static_cast<size_t>(all) * sizeof(int32_t);
  }
  // Of bits for slots.
  static FREEKV_HOST_DEVICE int words(int resident) { return (resident + 31) / 32; }
};

__device__ inline void set_bit(uint32_t* bits, int i) { atomicOr(&bits[i / 32], 1u << i % 32); }
__device__ inline bool has_bit(const uint32_t* bits, int i) {
  return (bits[i / 32] >> i % 32 & 1u) != 0;
}

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

__device__ inline void clear_bits(const RowLists& lists, int resident) {
  for (int i = threadIdx.x; i < RowLists::words(resident); i += kThreads) {
    lists.kept[i] = lists.attended[i] = 0;
  }
}

// What is resident of `count` chosen pages is not given up.
__device__ inline void keep_present(const RowSlots& slots, const RowLists& lists, int count,
                                    uint32_t now) {
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int32_t slot = lists.place[i];
    if (slot < 0) continue;
    set_bit(lists.kept, slot);
    slots.last_use[slot] = now;
  }
}

// Slots for the chosen pages that wanted(i) holds for, `count` of `chosen` in all; their moves in
// order of page. `keys`: room for a sort of all slots.
template <typename Wanted>
__device__ inline void bring_in(const SelectParams& params, const Row& row, const RowSlots& slots,
                                const RowLists& lists, int chosen, uint32_t now, int sort,
                                unsigned long long* keys, SelectShared& shared, Wanted wanted) {
  slots.make_keys(keys, sort, [&](int slot) { return has_bit(lists.kept, slot); });
  __syncthreads();
  slots.order_victims(keys, sort, lists.victims);
  __syncthreads();
  compact(chosen, shared, wanted, [&](int rank, int i) {
    const int32_t slot = lists.victims[rank];
    slots.give(slot, lists.chosen[i], now);
    params.moves[int64_t{row.at} * row.k + rank] = {lists.chosen[i], slot};
  });
}

inline SharedSizes shared_sizes(const SelectParams& params, bool masses) {
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

inline void check(const SelectParams& params, const SharedSizes& sizes) {
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

}  // namespace freekv::cuda::cover
