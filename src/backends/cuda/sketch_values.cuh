// Eight KV values, the 16 bytes that a thread moves at once, as floats and back. Device code only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace freekv::cuda {

template <typename T>
struct Word;  // two values in 32 bits, the first in the low half

template <>
struct Word<__nv_bfloat16> {
  static __device__ float2 unpack(unsigned int bits) {
    return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
  }
  static __device__ unsigned int pack(float low, float high) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(low)) |
           static_cast<unsigned int>(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
  }
};

template <>
struct Word<__half> {
  static __device__ float2 unpack(unsigned int bits) {
    return {__half2float(__ushort_as_half(static_cast<unsigned short>(bits & 0xffffu))),
            __half2float(__ushort_as_half(static_cast<unsigned short>(bits >> 16)))};
  }
  static __device__ unsigned int pack(float low, float high) {
    return __half_as_ushort(__float2half_rn(low)) |
           static_cast<unsigned int>(__half_as_ushort(__float2half_rn(high))) << 16;
  }
};

template <typename T>
__device__ void unpack(const uint4& from, float* to) {
  const unsigned int words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = Word<T>::unpack(words[i]);
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

template <typename T>
__device__ uint4 pack(const float* from) {
  return {Word<T>::pack(from[0], from[1]), Word<T>::pack(from[2], from[3]),
          Word<T>::pack(from[4], from[5]), Word<T>::pack(from[6], from[7])};
}

}  // namespace freekv::cuda
