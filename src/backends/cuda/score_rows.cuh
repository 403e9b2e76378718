// What scoring the candidates of a row has in common for all sketches: sums over lanes, and a
// split's scores and partial softmaxes on their way to SelectParams::scratch.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"

namespace freekv::cuda {

/// score_pages() for key2 (score_key2.cu), by a grid of one CTA per row (y) and split (x); the
/// parameters are checked.
void score_key2_pages(const SelectParams& params, dim3 grid, cudaStream_t stream);

#ifdef __CUDACC__
inline constexpr unsigned kAllOfWarp = 0xffffffffu;

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Largest {  // of a number and a NaN the number
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// Joins each of kCount values over a team's lanes. Halves are exchanged first, so that lanes join
/// different values: lane l of the team returns value l / (kTeam / kCount).
template <int kTeam, int kCount, typename Join>
__device__ float over_team(float (&v)[kCount], Join join) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int kept = kCount / 2; kept >= 1; kept /= 2) {
    const int offset = kTeam / kCount * kept;
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int i = 0; i < kept; ++i) {
      const float given = upper ? v[i] : v[i + kept];
      const float own = upper ? v[i + kept] : v[i];
      v[i] = join(own, __shfl_xor_sync(kAllOfWarp, given, offset));
    }
  }
#pragma unroll
  for (int offset = kTeam / kCount / 2; offset >= 1; offset /= 2) {
    v[0] = join(v[0], __shfl_xor_sync(kAllOfWarp, v[0], offset));
  }
  return v[0];
}

template <typename Join>
__device__ float over_warp(float value, Join join) {
  float all[1] = {value};
  return over_team<32>(all, join);
}

/// By one warp: see SplitSoftmax.
__device__ inline SplitSoftmax split_softmax(const float* scores, int pages, float scale) {
  static_assert(kScoreSplit == 64, "two scores per lane");
  const int lane = threadIdx.x % 32;
  const bool has_first = lane < pages, has_second = lane + 32 < pages;
  const float first = has_first ? scores[lane] : -INFINITY;
  const float second = has_second ? scores[lane + 32] : -INFINITY;
  const float highest = over_warp(fmaxf(first, second), Largest{});
  const float base = highest == -INFINITY ? 0.0f : highest;
  const float factor = scale * kLog2E;
  float sum = has_first ? exp2f((first - base) * factor) : 0.0f;
  sum += has_second ? exp2f((second - base) * factor) : 0.0f;
  return {highest, over_warp(sum, Sum{})};
}

/// By a CTA of kThreads: `scores` [G][kScoreSplit] of the `pages` candidates from `first` on.
template <int kThreads>
__device__ void write_scores(const SelectParams& params, int row, int first, int pages,
                             const float* scores) {
  const SelectionScratch scratch(params);
  const int group = params.kv.group;
  for (int i = threadIdx.x; i < group * kScoreSplit; i += kThreads) {
    scratch.row_scores(row, i / kScoreSplit)[first + i % kScoreSplit] = scores[i];
  }
  if (!has_softmax(params.pooling)) return;
  for (int g = threadIdx.x / 32; g < group; g += kThreads / 32) {
    const SplitSoftmax softmax = split_softmax(scores + g * kScoreSplit, pages, params.scale);
    if (threadIdx.x % 32 == 0) scratch.row_splits(row, g)[first / kScoreSplit] = softmax;
  }
}
#endif

}  // namespace freekv::cuda
