// The slots of one row as a selection changes them, PageTable::plan() and commit() taken apart, by
// a CTA. Device code only.
#pragma once

#include "backends/cuda/block_select.cuh"
#include "backends/cuda/layout.hpp"

namespace freekv::cuda {

/// The row's tables, and copies of two of them in shared memory.
struct RowSlots {
  int32_t resident = 0;
  int32_t* slot_of_page = nullptr;
  int32_t* page_in_slot = nullptr;
  uint32_t* last_use = nullptr;
  // [resident] each, shared.
  int32_t* pages = nullptr;
  uint32_t* uses = nullptr;
  uint32_t* kept = nullptr;  // [resident / 32] bits: slots that are not given up

  __device__ RowSlots(const SequenceLayer& layer, int head, int32_t slots, int32_t* shared)
      : resident(slots),
        slot_of_page(layer.slot_of_page + int64_t{head} * layer.max_pages),
        page_in_slot(layer.page_in_slot + int64_t{head} * slots),
        last_use(layer.last_use + int64_t{head} * slots),
        pages(shared),
        uses(reinterpret_cast<uint32_t*>(shared) + slots),
        kept(uses + slots) {}

  static FREEKV_HOST_DEVICE int32_t words(int32_t slots) { return (slots + 31) / 32; }

  /// All slots may be given up then. The caller sees to a barrier.
  __device__ void load() const {
    for (int slot = threadIdx.x; slot < resident; slot += cta_threads()) {
      pages[slot] = page_in_slot[slot];
      uses[slot] = last_use[slot];
    }
    clear(kept);
  }
  __device__ void clear(uint32_t* bits) const {
    for (int i = threadIdx.x; i < words(resident); i += cta_threads()) bits[i] = 0;
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

  /// By the thread whose page stands in the slot.
  __device__ void keep(int32_t slot, uint32_t now) const {
    atomicOr(&kept[slot / 32], 1u << slot % 32);
    last_use[slot] = now;
  }

  /// Slots in the order in which they are given up: empty ones, then by last use, of equals the
  /// lower; those that are kept last. `size` is a power of two, at least 64 and `resident`.
  __device__ void order_victims(unsigned long long* keys, int size) const {
    for (int slot = threadIdx.x; slot < size; slot += cta_threads()) {
      unsigned long long key = ~0ull;
      if (slot < resident && !has_bit(kept, slot)) {
        const unsigned long long holds = pages[slot] >= 0;
        key = holds << 63 | static_cast<unsigned long long>(uses[slot]) << 31 |
              static_cast<unsigned long long>(slot);
      }
      keys[slot] = key;
    }
    __syncthreads();
    sort_ascending(keys, size);
  }
  static __device__ int32_t victim(unsigned long long key) {
    return static_cast<int32_t>(key & 0x7fffffffu);
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

  static __device__ bool has_bit(const uint32_t* bits, int i) {
    return (bits[i / 32] >> i % 32 & 1u) != 0;
  }
};

}  // namespace freekv::cuda
