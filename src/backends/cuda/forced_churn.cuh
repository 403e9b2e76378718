// SelectParams::forced_churn: a selection drawn by a hash in place of the scores' choice, for
// benchmarks of synthetic weights, whose own selections would say nothing about a trained model's.
#pragma once

#include <cstdint>

#include "backends/cuda/block_select.cuh"

namespace freekv::cuda {

// splitmix64: every bit of the result depends on every bit of the argument.
__device__ inline uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

/// The last selection, and what is drawn of it.
struct Churn {
  const int32_t* last;  // [count] pages
  int count;
  int32_t sink;
  int n;  // candidates, more than k
  int k;
  uint64_t seed;  // of the step, layer, sequence and head
  float share;

  __device__ uint64_t draw(int i, int salt) const {
    return mixed(seed + 2 * static_cast<uint64_t>(i) + static_cast<uint64_t>(salt));
  }
  /// The candidate at place i of the last selection, or -1.
  __device__ int candidate(int i) const {
    const int at = i < count ? last[i] - sink : -1;
    return at < n ? at : -1;
  }
  __device__ bool replaces(int i) const {
    return candidate(i) < 0 || static_cast<float>(draw(i, 0) >> 40) * 0x1p-24f < share;
  }
};

__device__ inline bool has_bit(const uint32_t* bits, int i) {
  return (bits[i / 32] >> i % 32 & 1u) != 0;
}

__device__ inline void drop_replaced(const Churn& churn, uint32_t* taken) {
  for (int i = threadIdx.x; i < churn.count; i += kSelectThreads) {
    const int at = churn.candidate(i);
    if (at >= 0 && churn.replaces(i)) atomicAnd(&taken[at / 32], ~(1u << at % 32));
  }
  __syncthreads();
}

// Threads draw side by side: which of them gets a contested place depends on timing, but with
// linear probing the set of places taken in the end does not.
__device__ inline void draw_replacements(const Churn& churn, uint32_t* taken) {
  for (int i = threadIdx.x; i < churn.k; i += kSelectThreads) {
    if (!churn.replaces(i)) continue;
    auto at = static_cast<int>(churn.draw(i, 1) % static_cast<uint64_t>(churn.n));
    while ((atomicOr(&taken[at / 32], 1u << at % 32) >> at % 32 & 1u) != 0) {
      at = at + 1 < churn.n ? at + 1 : 0;
    }
  }
  __syncthreads();
}

/// Writes chosen[k], ascending: the last selection's pages, each replaced with probability `share`;
/// candidates at even distances where there was none. `taken` has a bit per candidate.
__device__ inline void choose_forced(const Churn& churn, uint32_t* taken, SelectShared& shared,
                                     int32_t* chosen) {
  if (churn.count == 0) {
    for (int i = threadIdx.x; i < churn.k; i += kSelectThreads) {
      chosen[i] = churn.sink + static_cast<int32_t>(int64_t{i} * churn.n / churn.k);
    }
    __syncthreads();
    return;
  }
  for (int i = threadIdx.x; i < (churn.n + 31) / 32; i += kSelectThreads) taken[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < churn.count; i += kSelectThreads) {
    const int at = churn.candidate(i);
    if (at >= 0) atomicOr(&taken[at / 32], 1u << at % 32);
  }
  __syncthreads();
  // What is replaced must not be drawn again, as long as there is enough else.
  const bool room = churn.n >= 2 * churn.k;
  if (!room) drop_replaced(churn, taken);
  draw_replacements(churn, taken);
  if (room) drop_replaced(churn, taken);
  compact(
      churn.n, shared, [&](int i) { return has_bit(taken, i); },
      [&](int rank, int i) { chosen[rank] = churn.sink + i; });
}

}  // namespace freekv::cuda
