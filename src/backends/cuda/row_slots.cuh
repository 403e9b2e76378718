// The slots of one row as a selection changes them, PageTable::plan() and commit() taken apart, by
// a CTA. Device code only.
#pragma once

#include "backends/cuda/block_select.cuh"
#include "backends/cuda/layout.hpp"

namespace freekv::cuda {

/// The row's tables, and copies of two of them in shared memory. Not for layers that hold
/// everything, which have none.
struct RowSlots {
  int32_t resident = 0;
  int32_t* slot_of_page = nullptr;
  int32_t* page_in_slot = nullptr;
  uint32_t* last_use = nullptr;
  // [resident] each, shared.
  int32_t* pages = nullptr;
  uint32_t* uses = nullptr;

  /// `shared`: words(slots).
  __device__ RowSlots(const SequenceLayer& layer, int head, int32_t slots, int32_t* shared)
      : resident(slots),
        slot_of_page(layer.slot_of_page + int64_t{head} * layer.max_pages),
        page_in_slot(layer.page_in_slot + int64_t{head} * slots),
        last_use(layer.last_use + int64_t{head} * slots),
        pages(shared),
        uses(reinterpret_cast<uint32_t*>(shared) + slots) {}

  static FREEKV_HOST_DEVICE int32_t words(int32_t slots) { return 2 * slots; }

  /// The caller sees to a barrier.
  __device__ void load() const {
    for (int slot = threadIdx.x; slot < resident; slot += cta_threads()) {
      pages[slot] = page_in_slot[slot];
      uses[slot] = last_use[slot];
    }
  }

  /// The slot that holds a page, or -1. So few slots are looked through faster than memory answers.
  __device__ int32_t slot_of(int32_t page) const {
    constexpr int kFew = 256;
    if (resident > kFew) return slot_of_page[page];
    int32_t found = -1;
#pragma unroll 8
    for (int slot = 0; slot < resident; ++slot) {
      if (pages[slot] == page) found = slot;
    }
    return found;
  }

  /// Keys of the order in which slots are given up: empty ones, then by last use, of equals the
  /// lower; last those that stays(slot) holds for. `size` is a power of two, at least 64 and
  /// `resident`. The caller sees to a barrier.
  template <typename Stays>
  __device__ void make_keys(unsigned long long* keys, int size, Stays stays) const {
    for (int slot = threadIdx.x; slot < size; slot += cta_threads()) {
      unsigned long long key = kStays;
      if (slot < resident && !stays(slot)) {
        key = static_cast<unsigned long long>(pages[slot] >= 0) << 63 |
              static_cast<unsigned long long>(uses[slot]) << 31 |
              static_cast<unsigned long long>(slot);
      }
      keys[slot] = key;
    }
  }

  /// victims[resident]: the slots that do not stay, in that order. The caller sees to a barrier.
  __device__ void order_victims(unsigned long long* keys, int size, int32_t* victims) const {
    constexpr int kFew = 256;  // so few keys are counted faster than sorted
    if (resident > kFew) {
      sort_ascending(keys, size);
      for (int i = threadIdx.x; i < resident; i += cta_threads()) {
        victims[i] = static_cast<int32_t>(keys[i] & 0x7fffffffu);
      }
      return;
    }
    for (int slot = threadIdx.x; slot < resident; slot += cta_threads()) {
      const unsigned long long own = keys[slot];
      if (own == kStays) continue;
      int before = 0;
#pragma unroll 8
      for (int other = 0; other < resident; ++other) before += keys[other] < own ? 1 : 0;
      victims[before] = slot;
    }
  }

  /// The slot of a page that is brought in; no two threads have the same slot or page.
  __device__ void give(int32_t slot, int32_t page, uint32_t now) const {
    const int32_t before = pages[slot];
    if (before >= 0) slot_of_page[before] = -1;  // never a page that another thread brings in
    slot_of_page[page] = slot;
    page_in_slot[slot] = page;
    last_use[slot] = now;
    pages[slot] = page;
  }

 private:
  static constexpr unsigned long long kStays = ~0ull;
};

}  // namespace freekv::cuda
