// Keys of 2 bits of one page (algorithm.md, section 2), built by a whole CTA: the bytes that
// Backend::build_key2_sketch() writes, for every key there can be. Device code only.
#pragma once

#include <cmath>
#include <cstdint>

#include "backends/cuda/sketch_values.cuh"

namespace freekv::cuda {

__device__ inline __nv_bfloat16 rounded(float value, __nv_bfloat16) {
  return __float2bfloat16_rn(value);
}
__device__ inline __half rounded(float value, __half) { return __float2half_rn(value); }
__device__ inline float widened(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float widened(__half value) { return __half2float(value); }

/// (key - lo) / step rounded down to 0..3; 0 where step is 0 or the quotient is no number. A
/// quotient and not a product with 1 / step: every backend rounds alike.
__device__ inline uint32_t key2_level(float key, float lo, float step) {
  if (!(step > 0)) return 0;
  const float x = __fdiv_rn(__fsub_rn(key, lo), step);
  return x >= 3 ? 3 : x >= 2 ? 2 : x >= 1 ? 1 : 0;
}

/// The highest and lowest key of eight channels over a run of tokens. Of equals the earlier stays,
/// and a NaN is passed over but in the page's first token: runs joined in their order then give
/// what one loop over all tokens does.
struct KeyRange {
  float hi[8], lo[8];

  __device__ KeyRange() {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      hi[e] = -INFINITY;
      lo[e] = INFINITY;
    }
  }
  __device__ void take(const float* key, bool first_of_page) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      hi[e] = first_of_page || hi[e] < key[e] ? key[e] : hi[e];
      lo[e] = first_of_page || key[e] < lo[e] ? key[e] : lo[e];
    }
  }
};

/// Sketches a page of `tokens` tokens (a multiple of 16, at most 64). `keys`: of its first token;
/// those of the next are `stride` units of eight values further. Called by all of the CTA's
/// kThreads, once.
template <typename T, int kDim, int kThreads>
__device__ void build_key2_page(const uint4* keys, int64_t stride, int tokens, void* sketch) {
  constexpr int kUnits = kDim / 8;
  constexpr int kRuns = kThreads / kUnits;
  __shared__ float hi[kRuns][kDim], lo[kRuns][kDim];
  const int thread = static_cast<int>(threadIdx.x);
  const int unit = thread % kUnits, run = thread / kUnits;
  if (run < kRuns) {
    const int length = (tokens + kRuns - 1) / kRuns;
    const int last = min(run * length + length, tokens);
    KeyRange range;
#pragma unroll 4
    for (int token = run * length; token < last; ++token) {
      float key[8];
      unpack<T>(keys[token * stride + unit], key);
      range.take(key, token == 0);
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      hi[run][unit * 8 + e] = range.hi[e];
      lo[run][unit * 8 + e] = range.lo[e];
    }
  }
  __syncthreads();

  // lo and step as they are kept, for the levels in the place of the first run's bounds.
  T* kept = static_cast<T*>(sketch);
  for (int e = thread; e < kDim; e += kThreads) {
    float high = hi[0][e], low = lo[0][e];
    for (int i = 1; i < kRuns; ++i) {
      high = high < hi[i][e] ? hi[i][e] : high;
      low = lo[i][e] < low ? lo[i][e] : low;
    }
    // Quarters first: the range of large keys could overflow.
    const float quarter = __fsub_rn(__fmul_rn(0.25f, high), __fmul_rn(0.25f, low));
    const T lowest = rounded(low, T{}), step = rounded(quarter, T{});
    kept[e] = lowest;
    kept[kDim + e] = step;
    lo[0][e] = widened(lowest);
    hi[0][e] = widened(step);
  }
  __syncthreads();

  // [group][token]: the levels of 16 channels in a word.
  auto* levels = static_cast<uint32_t*>(sketch) + kDim;
  for (int i = thread; i < kDim / 16 * tokens; i += kThreads) {
    const int group = i / tokens, token = i % tokens;
    uint32_t word = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float key[8];
      unpack<T>(keys[token * stride + 2 * group + half], key);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const int channel = 8 * half + e;  // in the group
        const int at = 16 * group + channel;
        word |= key2_level(key[e], lo[0][at], hi[0][at]) << (channel % 4 * 8 + channel / 4 * 2);
      }
    }
    levels[i] = word;
  }
}

}  // namespace freekv::cuda
