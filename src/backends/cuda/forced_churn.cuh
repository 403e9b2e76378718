// SelectParams::forced_churn: values drawn by a hash in place of the scores', for benchmarks of
// synthetic weights, whose own selections would say nothing about a trained model's.
#pragma once

#include <cstdint>

namespace freekv::cuda {

// splitmix64: every bit of the result depends on every bit of the argument.
__device__ inline uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

/// A step of one row. Pages of the last selection are those in a slot that it used.
struct Churn {
  const int32_t* slot_of_page;  // null: nothing was selected
  const uint32_t* last_use;
  uint32_t clock;  // of the last selection
  uint64_t seed;   // of the step, layer, sequence and head
  float share;

  /// Each page of the last selection is above all others, but for a `share` of them, which are
  /// below.
  __device__ float value(int32_t page) const {
    const uint64_t bits = mixed(seed + static_cast<uint64_t>(page));
    const float drawn = static_cast<float>(bits >> 40) * 0x1p-24f;
    const int32_t slot = slot_of_page == nullptr ? -1 : slot_of_page[page];
    if (slot < 0 || last_use[slot] != clock) return 1 + drawn;
    return static_cast<float>(static_cast<uint32_t>(bits) >> 8) * 0x1p-24f < share ? drawn
                                                                                   : 2 + drawn;
  }
};

}  // namespace freekv::cuda
