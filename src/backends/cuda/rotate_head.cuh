// A head of q, k or v in a warp's registers: how decode and prefill norm, rotate and write it, to
// the same bits. Device code only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "backends/cuda/rope_append.hpp"

namespace freekv::cuda {

__device__ inline void convert(float value, float* to) { *to = value; }
__device__ inline void convert(float value, __nv_bfloat16* to) { *to = __float2bfloat16_rn(value); }
__device__ inline void convert(float value, __half* to) { *to = __float2half_rn(value); }

/// The sum over a warp, in all its lanes.
__device__ inline float add_lanes(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

/// Lane l has the pairs l, l + 32, ... below d / 2; what is beyond is zero.
template <int kDim>
struct Head {
  static constexpr int kLanes = 32;
  static constexpr int kPairs = (kDim / 2 + kLanes - 1) / kLanes;
  float first[kPairs];
  float second[kPairs];

  /// Calls visit(i, pair, place of its first value, place of its second).
  template <typename Visit>
  static __device__ void each(Rope rope, int lane, Visit&& visit) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int pair = lane + i * kLanes;
      if (pair >= kDim / 2) continue;
      if (rope == Rope::kInterleaved) {
        visit(i, pair, 2 * pair, 2 * pair + 1);
      } else {
        visit(i, pair, pair, pair + kDim / 2);
      }
    }
  }
};

template <int kDim>
__device__ Head<kDim> load_head(const float* values, Rope rope, int lane) {
  Head<kDim> head = {};
  Head<kDim>::each(rope, lane, [&](int i, int, int first, int second) {
    head.first[i] = values[first];
    head.second[i] = values[second];
  });
  return head;
}

template <int kDim, typename T>
__device__ void store_head(const Head<kDim>& head, T* to, Rope rope, int lane) {
  Head<kDim>::each(rope, lane, [&](int i, int, int first, int second) {
    convert(head.first[i], to + first);
    convert(head.second[i], to + second);
  });
}

template <int kDim>
__device__ float dot(const Head<kDim>& a, const Head<kDim>& b) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < Head<kDim>::kPairs; ++i) {
    sum = fmaf(a.first[i], b.first[i], sum);
    sum = fmaf(a.second[i], b.second[i], sum);
  }
  return add_lanes(sum);
}

/// The head divided by its root mean square, times `weight` [d].
template <int kDim>
__device__ void norm_head(Head<kDim>& head, const float* weight, float eps, Rope rope, int lane) {
  const float inverse = 1.0f / sqrtf(dot(head, head) / static_cast<float>(kDim) + eps);
  Head<kDim>::each(rope, lane, [&](int i, int, int first, int second) {
    head.first[i] *= inverse * weight[first];
    head.second[i] *= inverse * weight[second];
  });
}

/// cos and sin of a position's angles, times a scale, in a block's shared memory.
template <int kDim>
struct Angles {
  float cosines[kDim / 2];
  float sines[kDim / 2];

  /// By all threads of the block; a barrier must follow. Positions go to a million: an angle is
  /// exact as the f32 product that models were trained with, and sincosf reduces it exactly.
  __device__ void fill(int64_t position, const float* frequencies, float scale) {
    for (int pair = static_cast<int>(threadIdx.x); pair < kDim / 2;
         pair += static_cast<int>(blockDim.x)) {
      float sine, cosine;
      sincosf(__fmul_rn(static_cast<float>(position), frequencies[pair]), &sine, &cosine);
      cosines[pair] = cosine * scale;
      sines[pair] = sine * scale;
    }
  }
  __device__ void rotate(Head<kDim>& head, Rope rope, int lane) const {
    Head<kDim>::each(rope, lane, [&](int i, int pair, int, int) {
      const float a = head.first[i], b = head.second[i];
      head.first[i] = a * cosines[pair] - b * sines[pair];
      head.second[i] = a * sines[pair] + b * cosines[pair];
    });
  }
};

}  // namespace freekv::cuda
