// The selection of one row, by one CTA: the k best of its pooled scores, and the slots they take.
// Device code only.
#pragma once

#include <algorithm>
#include <bit>

#include "backends/cuda/block_select.cuh"
#include "backends/cuda/forced_churn.cuh"
#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"

namespace freekv::cuda {

/// Shared memory of a row: one area that the pooled values and the sort of the victims use in turn,
/// then its lists.
struct RowShared {
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

__device__ inline Row read_row(const SelectParams& params, int at) {
  const int b = at / params.kv.kv_heads, head = at % params.kv.kv_heads;
  const SequenceLayer& layer = params.batch.layer(b, params.layer);
  return {at,    b,     head, row_candidates(params, b), params.map.selected,
          layer, layer.budgeted ? layer.clock[head] : 0};
}

__device__ inline RowLists row_lists(unsigned char* memory, const RowShared& sizes, int k,
                              int resident) {
  auto* lists = reinterpret_cast<int32_t*>(memory + sizes.area_bytes);
  int32_t* tables = lists + 3 * k;
  return {lists,         lists + k,
          lists + 2 * k, reinterpret_cast<uint32_t*>(tables + 2 * resident),
          tables,        reinterpret_cast<uint32_t*>(tables + resident)};
}

// Only the row's own selections write its tables, so that they can be read before the kernel in
// front has ended.
__device__ inline void copy_tables(const Row& row, int resident, const RowLists& lists) {
  if (!row.layer.budgeted) return;
  const int64_t first = int64_t{row.head} * resident;
  for (int slot = threadIdx.x; slot < resident; slot += cta_threads()) {
    lists.page_in_slot[slot] = row.layer.page_in_slot[first + slot];
    lists.last_use[slot] = row.layer.last_use[first + slot];
  }
}

// --- which pages ---------------------------------------------------------------------------------

// What forced churn puts in the place of pooled scores.
__device__ inline void draw_values(const SelectParams& params, const Row& row, const RowLists& lists,
                            float* values) {
  const auto sequence = static_cast<uint64_t>(params.batch.sequence[row.b]);
  uint64_t seed = mixed(static_cast<uint64_t>(params.batch.length(row.b)));
  seed = mixed(seed + static_cast<uint64_t>(params.layer));
  seed = mixed(seed + sequence);
  seed = mixed(seed + static_cast<uint64_t>(row.head));
  const Churn churn{seed, params.forced_churn};
  for (int i = threadIdx.x; i < row.n; i += cta_threads()) values[i] = churn.fresh(i);
  __syncthreads();
  const int resident = row.layer.budgeted ? params.map.resident : 0;
  for (int slot = threadIdx.x; slot < resident; slot += cta_threads()) {
    const int32_t i = lists.page_in_slot[slot] - params.map.sink;
    const bool selected = i >= 0 && i < row.n && lists.last_use[slot] == row.clock;
    if (selected) values[i] = churn.selected(i);
  }
  __syncthreads();
}

/// The k best candidates, more than k of them, to lists.chosen. All threads see the values.
__device__ inline void choose_best(const SelectParams& params, const Row& row, float* values,
                            SelectShared& shared, const RowLists& lists) {
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
__device__ inline int32_t slot_of(const Row& row, int resident, const RowLists& lists, int32_t page) {
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
__device__ inline int find_missing(const Row& row, int count, int resident, uint32_t now,
                            const RowLists& lists, SelectShared& shared) {
  uint32_t* last_use = row.layer.last_use + int64_t{row.head} * resident;
  for (int i = threadIdx.x; i < (resident + 31) / 32; i += cta_threads()) lists.in_use[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += cta_threads()) {
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

__device__ inline bool has_bit(const uint32_t* bits, int i) { return (bits[i / 32] >> i % 32 & 1u) != 0; }

// Slots in the order in which they are given up, as PageTable::plan() takes them; those in use
// last.
__device__ inline void order_victims(int resident, const RowShared& sizes, const RowLists& lists,
                              unsigned long long* keys) {
  for (int slot = threadIdx.x; slot < sizes.sort; slot += cta_threads()) {
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

// PageTable::plan() and commit(); returns the number of moves, which go to moves[k].
__device__ inline int make_resident(const SelectParams& params, const Row& row, int count,
                             const RowShared& sizes, unsigned long long* keys,
                             const RowLists& lists, SelectShared& shared, Move* moves) {
  const int resident = params.map.resident;
  const uint32_t now = row.clock + 1;
  const int missing = find_missing(row, count, resident, now, lists, shared);
  if (threadIdx.x == 0) row.layer.clock[row.head] = now;
  if (missing == 0) return 0;
  order_victims(resident, sizes, lists, keys);

  int32_t* slot_of_page = row.layer.slot_of_page + int64_t{row.head} * row.layer.max_pages;
  int32_t* page_in_slot = row.layer.page_in_slot + int64_t{row.head} * resident;
  uint32_t* last_use = row.layer.last_use + int64_t{row.head} * resident;
  for (int i = threadIdx.x; i < missing; i += cta_threads()) {
    const auto slot = static_cast<int32_t>(keys[i] & 0x7fffffffu);
    const int32_t page = lists.missing[i], victim = lists.page_in_slot[slot];
    if (victim >= 0) slot_of_page[victim] = -1;  // never a page that another thread brings in
    slot_of_page[page] = slot;
    page_in_slot[slot] = page;
    last_use[slot] = now;
    moves[i] = {page, slot};
  }
  return missing;
}

__device__ inline void count_selection(const SelectParams& params, const Row& row, int count, int moves) {
  if (params.counters == nullptr) return;
  RowCounters& counters =
      params.counters[int64_t{params.batch.sequence[row.b]} * params.kv.kv_heads + row.head];
  counters.selections += 1;
  counters.pages_selected += static_cast<unsigned long long>(count);
  (params.ahead == 0 ? counters.misses_before : counters.misses_after) +=
      static_cast<unsigned long long>(moves);
}

/// To lists.chosen, the tables of SequenceLayer and moves[k]; returns how many of each. `values`:
/// pooled, read where there are more candidates than are selected; the sort may overwrite `area`.
struct Chosen {
  int pages = 0;
  int moves = 0;
};
__device__ inline Chosen choose_row(const SelectParams& params, const Row& row,
                                    const RowShared& sizes, float* values, void* area,
                                    const RowLists& lists, SelectShared& shared, Move* moves) {
  Chosen chosen{min(max(row.n, 0), row.k), 0};
  if (row.n > row.k) {
    choose_best(params, row, values, shared, lists);
  } else {
    for (int i = threadIdx.x; i < chosen.pages; i += cta_threads()) {
      lists.chosen[i] = params.map.sink + i;
    }
    __syncthreads();
  }
  if (row.layer.budgeted) {
    chosen.moves = make_resident(params, row, chosen.pages, sizes,
                                 static_cast<unsigned long long*>(area), lists, shared, moves);
  }
  return chosen;
}

/// What attention reads, and the counters; without a barrier.
__device__ inline void finish_row(const SelectParams& params, const Row& row, const Chosen& chosen,
                                  const RowLists& lists) {
  int32_t* selected = row.layer.selected + int64_t{row.head} * row.k;
  for (int i = threadIdx.x; i < chosen.pages; i += cta_threads()) selected[i] = lists.chosen[i];
  if (threadIdx.x != 0) return;
  row.layer.selected_count[row.head] = chosen.pages;
  count_selection(params, row, chosen.pages, chosen.moves);
}

inline RowShared row_shared(const SelectParams& params, int32_t most_values) {
  const auto resident = static_cast<unsigned>(params.map.resident);
  const auto k = static_cast<size_t>(params.map.selected);
  RowShared sizes;
  sizes.values = static_cast<int>(
      std::min<int64_t>(SelectionScratch::padded(params.max_candidates), most_values));
  sizes.sort = static_cast<int>(std::max(64u, std::bit_ceil(resident)));
  size_t area = std::max(static_cast<size_t>(sizes.values) * sizeof(float),
                         static_cast<size_t>(sizes.sort) * sizeof(unsigned long long));
  sizes.area_bytes = (area + 15) / 16 * 16;
  sizes.bytes = sizes.area_bytes + (3 * k + 2 * resident + (resident + 31) / 32) * sizeof(int32_t);
  return sizes;
}

}  // namespace freekv::cuda
