// The instructions of sm_80 and newer that decode attention is built of, one function each.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "backends/cuda/layout.hpp"
#include "backends/cuda/read_once.cuh"

namespace freekv::cuda::decode {

inline constexpr uint32_t kAllLanes = 0xffffffffu;

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Copies `bytes` (16 or 0) to shared memory in the background and fills up to 16 with zeros.
__device__ __forceinline__ void copy_16(uint32_t to, const void* from, uint32_t bytes) {
  asm volatile(
      "cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(to),
      "l"(from), "r"(bytes), "l"(read_once())
      : "memory");
}

/// Closes a group of copies; empty groups count too.
__device__ __forceinline__ void close_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until no more than the last `kPending` groups of this thread are under way.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// Four 8x8 matrices of 16-bit values, their rows at the addresses of lanes 0-7, 8-15, 16-23 and
/// 24-31. Lane l gets values (row l / 4, columns 2 * (l % 4) and the next) of each.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}

/// The same, each matrix transposed.
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}

/// 2^x; below the normal numbers, 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <typename Pair>
__device__ __forceinline__ uint32_t pair_bits(Pair pair) {
  static_assert(sizeof(Pair) == sizeof(uint32_t));
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

template <typename Pair>
__device__ __forceinline__ Pair bits_pair(uint32_t bits) {
  Pair pair;
  memcpy(&pair, &bits, sizeof(bits));
  return pair;
}

/// Pairs of 16-bit values, the power of two that weights are raised by, and sum[16x8] += a[16x16] *
/// b[16x8]; the fragments as in the PTX manual.
template <KvType kType>
struct Arithmetic;

template <>
struct Arithmetic<KvType::kBF16> {
  static constexpr float kLift = 0;
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    return pair_bits(__floats2bfloat162_rn(low, high));
  }
  static __device__ __forceinline__ float2 unpack(uint32_t bits) {
    return __bfloat1622float2(bits_pair<__nv_bfloat162>(bits));
  }
  static __device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4],
                                                  uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

template <>
struct Arithmetic<KvType::kF16> {
  // Weights are taken times 2^12, which cancels: many small ones, each below the 2^-14 that f16
  // holds in full, may still be most of the mass.
  static constexpr float kLift = 12;
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    return pair_bits(__floats2half2_rn(low, high));
  }
  static __device__ __forceinline__ float2 unpack(uint32_t bits) {
    return __half22float2(bits_pair<__half2>(bits));
  }
  static __device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4],
                                                  uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

}  // namespace freekv::cuda::decode
