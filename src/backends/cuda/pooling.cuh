// Pooling over the query heads of a group (algorithm.md, section 3): what turns their scores of a
// page into one. Device code only.
#pragma once

#include <cmath>
#include <type_traits>

#include "backends/cuda/block_select.cuh"
#include "backends/cuda/selection_scratch.hpp"

namespace freekv::cuda {

/// What turns a head's scores into its softmax over all candidates.
struct HeadSoftmax {
  float highest;
  float inverse;  // of the sum
};

/// By one warp, in an order that depends on the count only. factor: SelectParams::scale * kLog2E.
__device__ inline HeadSoftmax join_splits(const SplitSoftmax* splits, int count, float factor) {
  const int lane = threadIdx.x % 32;
  float highest = -INFINITY;
  for (int i = lane; i < count; i += 32) highest = fmaxf(highest, splits[i].highest);
#pragma unroll
  for (int offset = 16; offset >= 1; offset /= 2) {
    highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, offset));
  }
  float sum = 0;
  for (int i = lane; i < count; i += 32) {
    sum += splits[i].sum * exp2f((splits[i].highest - highest) * factor);
  }
  return {highest, 1.0f / sum_of_warp(sum)};
}

template <Pooling kRule>
__device__ float pool_one(float pooled, float score, const HeadSoftmax& softmax, float factor) {
  if constexpr (has_softmax(kRule)) {
    score = exp2f((score - softmax.highest) * factor) * softmax.inverse;
  }
  constexpr bool kMean = kRule == Pooling::kMeanSoftmax || kRule == Pooling::kMeanScore;
  return kMean ? pooled + score : fmaxf(pooled, score);
}

/// Four candidates; `scores` of head 0, those of the next `stride` values on. softmax: [G], unused
/// by pooling without one.
template <Pooling kRule>
__device__ float4 pool_four(const float* scores, int64_t stride, int group,
                            const HeadSoftmax* softmax, float factor) {
  constexpr bool kMean = kRule == Pooling::kMeanSoftmax || kRule == Pooling::kMeanScore;
  const float start = kMean ? 0.0f : -INFINITY;
  const float divisor = kMean ? static_cast<float>(group) : 1.0f;
  float4 sum = {start, start, start, start};
#pragma unroll 4
  for (int g = 0; g < group; ++g) {
    const float4 score = *reinterpret_cast<const float4*>(scores + g * stride);
    sum.x = pool_one<kRule>(sum.x, score.x, softmax[g], factor);
    sum.y = pool_one<kRule>(sum.y, score.y, softmax[g], factor);
    sum.z = pool_one<kRule>(sum.z, score.z, softmax[g], factor);
    sum.w = pool_one<kRule>(sum.w, score.w, softmax[g], factor);
  }
  return {sum.x / divisor, sum.y / divisor, sum.z / divisor, sum.w / divisor};
}

/// Calls `body` with the pooling as a constant.
template <typename Body>
__device__ void with_pooling(Pooling rule, Body&& body) {
  switch (rule) {
    case Pooling::kMeanSoftmax:
      return body(std::integral_constant<Pooling, Pooling::kMeanSoftmax>());
    case Pooling::kMaxSoftmax:
      return body(std::integral_constant<Pooling, Pooling::kMaxSoftmax>());
    case Pooling::kMeanScore:
      return body(std::integral_constant<Pooling, Pooling::kMeanScore>());
    case Pooling::kMaxScore:
      return body(std::integral_constant<Pooling, Pooling::kMaxScore>());
  }
}

}  // namespace freekv::cuda
