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

/// Values of candidates in a step of one row. Each of the last selection is above all others, but
/// for a `share` of them, which are below.
struct Churn {
  uint64_t seed;  // of the step, layer, sequence and head
  float share;

  __device__ float fresh(int i) const { return 1 + drawn(bits(i) >> 40); }
  __device__ float selected(int i) const {
    const uint64_t value = bits(i);
    const bool stays = drawn(value & 0xffffffu) >= share;
    return drawn(value >> 40) + (stays ? 2 : 0);
  }

 private:
  __device__ uint64_t bits(int i) const { return mixed(seed + static_cast<uint64_t>(i)); }
  static __device__ float drawn(uint64_t of_24_bits) {
    return static_cast<float>(static_cast<uint32_t>(of_24_bits)) * 0x1p-24f;
  }
};

}  // namespace freekv::cuda
