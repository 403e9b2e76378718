// How prefill attention cuts its work, and the memory one worker needs for it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

namespace freekv::cpu {

// A row is a (token, query head of the group). A block of rows is attended to by one worker, which
// reads and converts each block of keys once for all of them, and then takes few rows at a time, so
// that their scores stay in the first-level cache. None of these sizes but kBlockKeys, which is
// counted from the context's first token, shows in a result.
inline constexpr size_t kBlockRows = 384;
inline constexpr size_t kSubRows = 24;
inline constexpr size_t kBlockKeys = 256;
/// Head dimensions are padded to this: no vector of f32 in use is longer.
inline constexpr size_t kMaxLanes = 32;

constexpr size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

/// The parts of a worker's memory, all f32, for any number of tokens of context.
struct PrefillWorkspace {
  float* q = nullptr;       // [rows, d], scaled
  float* sum = nullptr;     // [rows, padded d]: weighted values so far
  float* keys = nullptr;    // the block of keys as panels of [d, panel columns]
  float* values = nullptr;  // [block of keys, padded d]
  float* scores = nullptr;  // [kSubRows, block of keys]
  float* high = nullptr;    // [rows]: highest score so far
  float* mass = nullptr;    // [rows]: sum of the weights so far

  static size_t rows(size_t group) { return round_up(std::max(kBlockRows, group), kSubRows); }
  static size_t floats(size_t group, size_t head_dim) {
    const size_t d = round_up(head_dim, kMaxLanes);
    return rows(group) * (2 * d + 2) + kBlockKeys * (2 * d + kSubRows);
  }

  PrefillWorkspace(float* at, size_t group, size_t head_dim) {
    const size_t n = rows(group);
    const size_t d = round_up(head_dim, kMaxLanes);
    const auto take = [&](size_t count) { return std::exchange(at, at + count); };
    q = take(n * d);
    sum = take(n * d);
    keys = take(d * kBlockKeys);
    values = take(d * kBlockKeys);
    scores = take(kSubRows * kBlockKeys);
    high = take(n);
    mass = take(n);
  }
};

}  // namespace freekv::cpu
