// The kernel of decode attention: one tile of tokens against one block of query heads.
#pragma once

#include <cstddef>

#include "core/dtype.hpp"

namespace freekv::cpu {

/// Tokens of a tile: their keys and values stay in the first-level cache between the two passes.
inline constexpr size_t kTileTokens = 64;
/// Most floats of a vector, on any machine.
inline constexpr size_t kMaxLanes = 16;
/// Bytes that the memory hands over at a time, and most of them in a row (256 values of f32).
inline constexpr size_t kLineBytes = 64;
inline constexpr size_t kMaxRowLines = 256 * sizeof(float) / kLineBytes;
/// Rows that a tile lists: a kernel reads whole groups of tokens and so past the last one.
inline constexpr size_t kTileRows = kTileTokens + kMaxLanes;

/// Where the tokens lie. Rows past `tokens` repeat the last one: read, but never counted.
struct Tile {
  const std::byte* const* keys;   // [kTileRows]
  const std::byte* const* fetch;  // lines of keys to bring into the cache meanwhile, and their
  size_t fetch_count;             // values' lines; none but for the first block of heads
  size_t tokens;                  // 1..kTileTokens
  size_t key_offset;              // from keys[t] to the key that is meant
  size_t values_offset;           // from a key to its value
  size_t dim;                     // a multiple of 8
  size_t padded_dim;              // the next multiple of kMaxLanes
};

/// The running softmax of a block of heads. All memory is aligned to 64 bytes.
struct HeadBlockState {
  float* max;   // [kMaxLanes] in base two; head h at h, h + stride, ... with stride = 2^n >= heads
  float* mass;  // [kMaxLanes] likewise, to be summed over the lanes of a head
  float* sums;  // [heads][padded_dim] of weight * value
};

/// q [heads][padded_dim] is scaled by scale * log2(e) and padded with zeros; `scores` is scratch of
/// kTileRows * 8 floats.
using TileKernel = void (*)(const Tile& tile, const float* q, float* scores, HeadBlockState& state);

/// What runs on this machine: kernels for blocks of 1 to max_heads query heads.
struct TileKernels {
  size_t lanes;  // floats of a vector
  size_t max_heads;
  TileKernel by_heads[9];  // [1..max_heads]
};
const TileKernels& tile_kernels(DType dtype);

}  // namespace freekv::cpu
