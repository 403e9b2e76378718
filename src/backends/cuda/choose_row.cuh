// The selection of one row, by one CTA: the k best of its pooled scores, and the slots they take.
// Device code only.
#pragma once

#include <algorithm>
#include <bit>

#include "backends/cuda/block_select.cuh"
#include "backends/cuda/forced_churn.cuh"
#include "backends/cuda/row_slots.cuh"
#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"

namespace freekv::cuda {

/// Shared memory of a row: its pooled values, as far as they fit, then its lists.
struct RowShared {
  int values = 0;     // pooled values that fit
  int words = 0;      // of RowLists::present
  int sort = 0;       // of RowLists::keys: a power of two, the resident slots or more
  size_t before = 0;  // bytes of values
  size_t bytes = 0;
};

struct RowLists {
  unsigned long long* keys;  // [sort]: the order in which slots are given up
  int32_t* victims;          // [resident]: slots in that order
  int32_t* chosen;           // [k] pages, ascending
  int32_t* missing;          // [k] those of them that are not resident
  uint32_t* present;         // [words]: bits of the candidates that are resident, if they fit
  int32_t* slots;            // of RowSlots
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
  uint64_t seed;   // of forced churn
};

__device__ inline Row read_row(const SelectParams& params, int at) {
  const int b = at / params.kv.kv_heads, head = at % params.kv.kv_heads;
  const SequenceLayer& layer = params.batch.layer(b, params.layer);
  Row row{at,
          b,
          head,
          row_candidates(params, b),
          params.map.selected,
          layer,
          layer.budgeted ? layer.clock[head] : 0,
          0};
  if (params.forced_churn >= 0) {
    row.seed = mixed(static_cast<uint64_t>(params.batch.length(b)));
    row.seed = mixed(row.seed + static_cast<uint64_t>(params.layer));
    row.seed = mixed(row.seed + static_cast<uint64_t>(params.batch.sequence[b]));
    row.seed = mixed(row.seed + static_cast<uint64_t>(head));
  }
  return row;
}

/// `memory`: RowShared::bytes, values first.
__device__ inline RowLists row_lists(unsigned char* memory, const RowShared& sizes, int k,
                                     int resident) {
  auto* keys = reinterpret_cast<unsigned long long*>(memory + sizes.before);
  auto* victims = reinterpret_cast<int32_t*>(keys + sizes.sort);
  int32_t* chosen = victims + resident;
  int32_t* missing = chosen + k;
  auto* present = reinterpret_cast<uint32_t*>(missing + k);
  return {keys,    victims, chosen,
          missing, present, reinterpret_cast<int32_t*>(present + sizes.words)};
}

__device__ inline RowSlots row_slots(const SelectParams& params, const Row& row,
                                     const RowLists& lists) {
  return {row.layer, row.head, params.map.resident, lists.slots};
}

/// Before scores exist: copies the row's tables and marks its resident candidates. Only the row's
/// own selections write these tables, so that they can be read before the kernel in front has
/// ended. A barrier must follow.
__device__ inline void read_tables(const SelectParams& params, const Row& row,
                                   const RowShared& sizes, const RowLists& lists) {
  for (int i = threadIdx.x; i < sizes.words; i += cta_threads()) lists.present[i] = 0;
  if (!row.layer.budgeted) return;
  __syncthreads();
  const RowSlots slots = row_slots(params, row, lists);
  slots.load();
  for (int slot = threadIdx.x; slot < slots.resident; slot += cta_threads()) {
    const int32_t i = slots.pages[slot] - params.map.sink;  // which this thread has copied
    if (sizes.words > 0 && i >= 0 && i < row.n) atomicOr(&lists.present[i / 32], 1u << i % 32);
  }
}

// --- which pages ---------------------------------------------------------------------------------

// What forced churn puts in the place of pooled scores.
__device__ inline void draw_values(const SelectParams& params, const Row& row,
                                   const RowLists& lists, float* values) {
  const Churn churn{row.seed, params.forced_churn};
  for (int i = threadIdx.x; i < row.n; i += cta_threads()) values[i] = churn.fresh(i);
  __syncthreads();
  const RowSlots slots = row_slots(params, row, lists);
  const int resident = row.layer.budgeted ? slots.resident : 0;
  for (int slot = threadIdx.x; slot < resident; slot += cta_threads()) {
    const int32_t i = slots.pages[slot] - params.map.sink;
    const bool selected = i >= 0 && i < row.n && slots.uses[slot] == row.clock;
    if (selected) values[i] = churn.selected(i);
  }
  __syncthreads();
}

// --- which slots ---------------------------------------------------------------------------------

__device__ inline bool is_resident(const SelectParams& params, const Row& row,
                                   const RowShared& sizes, const RowLists& lists, int i) {
  if (sizes.words > 0) return (lists.present[i / 32] >> i % 32 & 1u) != 0;
  if (!row.layer.budgeted) return true;
  return row.layer.slot_of_page[int64_t{row.head} * row.layer.max_pages + params.map.sink + i] >= 0;
}

struct Chosen {
  int pages = 0;
  int moves = 0;
};
/// To lists.chosen, the tables of SequenceLayer and moves[k]; returns how many of each. `values`:
/// pooled, read where there are more candidates than are selected.
__device__ inline Chosen choose_row(const SelectParams& params, const Row& row,
                                    const RowShared& sizes, float* values, const RowLists& lists,
                                    SelectShared& shared, Move* moves) {
  if (params.forced_churn >= 0 && row.n > row.k) draw_values(params, row, lists, values);
  const KBest best = k_best(values, row.n, row.k, shared);
  const RowSlots slots = row_slots(params, row, lists);
  const uint32_t now = row.clock + 1;
  if (row.layer.budgeted) {
    slots.make_keys(lists.keys, sizes.sort, [&](int slot) {
      const int32_t i = slots.pages[slot] - params.map.sink;
      const bool stays = i >= 0 && i < row.n && best.has(i);
      if (stays) slots.last_use[slot] = now;
      return stays;
    });
  }
  __syncthreads();
  if (row.layer.budgeted) slots.order_victims(lists.keys, sizes.sort, lists.victims);
  const Compacted taken = compact_two(
      row.n, shared, [&](int i) { return best.has(i); },
      [&](int i) { return is_resident(params, row, sizes, lists, i); },
      [&](int rank, int i) { lists.chosen[rank] = params.map.sink + i; },
      [&](int rank, int i) { lists.missing[rank] = params.map.sink + i; });
  if (!row.layer.budgeted) return {taken.all, 0};
  if (threadIdx.x == 0) row.layer.clock[row.head] = now;
  for (int i = threadIdx.x; i < taken.fresh; i += cta_threads()) {
    moves[i] = {lists.missing[i], lists.victims[i]};
    slots.give(lists.victims[i], lists.missing[i], now);
  }
  return {taken.all, taken.fresh};
}

__device__ inline void count_selection(const SelectParams& params, const Row& row, int pages,
                                       int moves) {
  if (params.counters == nullptr) return;
  RowCounters& counters =
      params.counters[int64_t{params.batch.sequence[row.b]} * params.kv.kv_heads + row.head];
  add_to(counters.selections, 1);
  add_to(counters.pages_selected, pages);
  add_to(params.ahead == 0 ? counters.misses_before : counters.misses_after, moves);
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

/// With as many values as fit beside the lists in `limit` bytes; more than that where these alone
/// do not fit.
inline RowShared row_shared(const SelectParams& params, size_t limit) {
  constexpr int64_t kMostWords = 4096;  // 4M tokens in pages of 32
  const auto resident = static_cast<unsigned>(params.map.resident);
  const auto k = static_cast<size_t>(params.map.selected);
  const int64_t padded = SelectionScratch::padded(params.max_candidates);
  RowShared sizes;
  sizes.words = padded / 32 <= kMostWords ? static_cast<int>(padded / 32) : 0;
  sizes.sort = static_cast<int>(std::max(64u, std::bit_ceil(resident)));
  const size_t lists =
      static_cast<size_t>(sizes.sort) * sizeof(unsigned long long) +
      (3 * size_t{resident} + 2 * k + static_cast<size_t>(sizes.words)) * sizeof(int32_t);
  const size_t room = limit > lists ? (limit - lists) / 16 * 4 : 0;
  sizes.values = static_cast<int>(std::min<int64_t>(padded, static_cast<int64_t>(room)));
  sizes.before = static_cast<size_t>(sizes.values) * sizeof(float);  // a multiple of 16
  sizes.bytes = sizes.before + lists;
  return sizes;
}

}  // namespace freekv::cuda
