#include "backends/cuda/gemv.hpp"

#include <cstdint>
#include <utility>

#include "backends/cuda/launch.cuh"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

// A block computes kGroups * kWeights outputs of all rows. kSlices warps share a weight row: warp s
// adds up the chunks s, s + kSlices, ... in that order; shuffles add up its lanes, and the slices
// are added in their order at the end. The order in which one output is summed thus depends on K
// alone, not on the number of rows.
namespace freekv::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kVector = 8;               // bf16 values in a load of 16 bytes
constexpr int kChunk = kWarp * kVector;  // values of a weight row that a warp reads at once
constexpr int kSlices = 4;
constexpr int kGroups = 2;
// Weight rows and chunks of each that a warp reads at once: 8 loads in flight per lane. The more
// weight rows, the less often x is read.
constexpr int kWeights = 4;
constexpr int kUnroll = 2;
constexpr int kThreads = kSlices * kGroups * kWarp;
constexpr int kMaxCols = 1 << 24;  // kMaxGemvRows of them are counted in an int
constexpr int kLanesPerSum = kWarp / kWeights;

// Weights are read once: they must not push x, which is read by every warp, out of L1. Volatile, so
// that the compiler keeps all loads of an iteration in front of the sums.
__device__ uint4 load_weights(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(__cvta_generic_to_global(from)));
  return v;
}

// Four bf16 values; the first of a pair lies in the low half.
__device__ float4 unpack(uint32_t first, uint32_t second) {
  return {__uint_as_float(first << 16), __uint_as_float(first & 0xffff0000u),
          __uint_as_float(second << 16), __uint_as_float(second & 0xffff0000u)};
}

__device__ float add_products(const float4& x, const float4& w, float sum) {
  sum = __fmaf_rn(x.x, w.x, sum);
  sum = __fmaf_rn(x.y, w.y, sum);
  sum = __fmaf_rn(x.z, w.z, sum);
  return __fmaf_rn(x.w, w.w, sum);
}

// Four lanes in eight take the second half of their vectors first: with 32 bytes of x per lane,
// eight lanes' loads of 16 bytes would otherwise meet in half of the banks of L1.
__device__ bool takes_second_half_first(int lane) { return (lane & 4) != 0; }

// What a lane has added up so far.
template <int kRows>
struct Sums {
  float products[kRows][kWeights] = {};
  float squares[kRows] = {};  // of x, where it is normed
};

// Adds this lane's kVector products of every row of x with every weight row. In halves, so that
// only half of the weights take up registers as f32.
template <int kRows, bool kNorm>
__device__ void add_vector(const float4* x, const float4* norm, int stride, bool swapped,
                           const uint4 (&raw)[kWeights], Sums<kRows>& sums) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool second = (half == 1) != swapped;
    const int at = second ? 1 : 0;
    float4 weight[kWeights];
#pragma unroll
    for (int w = 0; w < kWeights; ++w) {
      weight[w] = unpack(second ? raw[w].z : raw[w].x, second ? raw[w].w : raw[w].y);
    }
    float4 by = {};
    if constexpr (kNorm) by = __ldg(norm + at);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float4 values = x[at + r * stride];
      if constexpr (kNorm) {
        sums.squares[r] = add_products(values, values, sums.squares[r]);
        values = {values.x * by.x, values.y * by.y, values.z * by.z, values.w * by.w};
      }
#pragma unroll
      for (int w = 0; w < kWeights; ++w) {
        sums.products[r][w] = add_products(values, weight[w], sums.products[r][w]);
      }
    }
  }
}

// Adds up each of kWeights values over the lanes; returns the one numbered lane / kLanesPerSum.
// Lanes l and l ^ 16 are added first, then l ^ 8, and so on. As long as a lane holds several values
// it keeps half of them and hands over the others: 6 shuffles instead of 20, and the same sums,
// since addition commutes.
__device__ float add_lanes(float (&value)[kWeights], int lane) {
  int offset = kWarp / 2;
#pragma unroll
  for (int kept = kWeights / 2; kept > 0; kept /= 2) {
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int i = 0; i < kept; ++i) {
      const float given = upper ? value[i] : value[i + kept];
      const float own = upper ? value[i + kept] : value[i];
      value[i] = __fadd_rn(own, __shfl_xor_sync(0xffffffffu, given, offset));
    }
    offset /= 2;
  }
#pragma unroll
  for (offset = kLanesPerSum / 2; offset > 0; offset /= 2) {
    value[0] = __fadd_rn(value[0], __shfl_xor_sync(0xffffffffu, value[0], offset));
  }
  return value[0];
}

// What warps leave for the end: sums over their lanes.
template <int kRows>
struct Partial {
  float products[kSlices][kGroups][kRows][kWeights];
  float squares[kSlices][kGroups][kRows];

  // Over the slices, in their order.
  __device__ float product(int group, int r, int w) const {
    float value = products[0][group][r][w];
#pragma unroll
    for (int s = 1; s < kSlices; ++s) value = __fadd_rn(value, products[s][group][r][w]);
    return value;
  }
  __device__ float inverse_norm(int group, int r, const GemvParams& p) const {
    float value = squares[0][group][r];
#pragma unroll
    for (int s = 1; s < kSlices; ++s) value = __fadd_rn(value, squares[s][group][r]);
    return 1.0f / sqrtf(value / static_cast<float>(p.k) + p.norm_eps);
  }
};

__device__ float add_all_lanes(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = __fadd_rn(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  return value;
}

// The sums over K of all rows with kWeights weight rows: the first kNear of them follow one another
// from `weight` on, the others begin `far` units further. Those beyond the last are read as the
// last.
template <int kRows, bool kNorm, int kNear>
__device__ Sums<kRows> add_up(const GemvParams& p, const uint4* weight, int spare, int64_t far,
                              int slice, int lane) {
  const bool swapped = takes_second_half_first(lane);
  const int vectors = p.k / kVector;
  const int chunks = (p.k + kChunk - 1) / kChunk;
  const float4* x = reinterpret_cast<const float4*>(p.x);
  const float4* norm = reinterpret_cast<const float4*>(p.norm);
  Sums<kRows> sums;
  bool waits = true;
  for (int chunk = slice; chunk < chunks; chunk += kUnroll * kSlices) {
    uint4 raw[kUnroll][kWeights];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      // Beyond the end of the row likewise: nothing is added there.
      const int at = min((chunk + u * kSlices) * kWarp + lane, vectors - 1);
#pragma unroll
      for (int w = 0; w < kWeights; ++w) {
        const uint4* row = weight + (w < kNear ? 0 : far);
        raw[u][w] = load_weights(row + (min(w % kNear, spare) * vectors + at));
      }
    }
    // The first weights are on their way before there is an x to multiply them with.
    if (waits) wait_for_previous();
    waits = false;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int at = (chunk + u * kSlices) * kWarp + lane;
      if (at < vectors) {
        add_vector<kRows, kNorm>(x + 2 * at, norm + 2 * at, 2 * vectors, swapped, raw[u], sums);
      }
    }
  }
  if (waits) wait_for_previous();
  return sums;
}

__device__ float gated(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

template <int kRows, int kBlocks, bool kNorm, bool kGated>
__global__ void __launch_bounds__(kThreads, kBlocks) gemv_kernel(GemvParams p) {
  // Gated, half of a group's weight rows are gates and half are what they let through.
  constexpr int kOutputs = kGated ? kWeights / 2 : kWeights;
  __shared__ Partial<kRows> partial;
  let_next_start();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int slice = warp % kSlices;
  const int group = warp / kSlices;

  const int vectors = p.k / kVector;
  const int first = (static_cast<int>(blockIdx.x) * kGroups + group) * kOutputs;
  const int base = min(first, p.n - 1);
  const uint4* weight = static_cast<const uint4*>(p.weight) + int64_t{base} * vectors;
  Sums<kRows> sums = add_up<kRows, kNorm, kOutputs>(p, weight, p.n - 1 - base,
                                                    int64_t{p.n} * vectors, slice, lane);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float value = add_lanes(sums.products[r], lane);
    if (lane % kLanesPerSum == 0) {
      partial.products[slice][group][r][lane / kLanesPerSum] = value;
    }
    if constexpr (kNorm) {
      const float squares = add_all_lanes(sums.squares[r]);
      if (lane == 0) partial.squares[slice][group][r] = squares;
    }
  }
  __syncthreads();

  static_assert(kGroups * kRows * kWeights <= kThreads);
  const int output = static_cast<int>(threadIdx.x);
  if (output >= kGroups * kRows * kOutputs) return;
  const int of_group = output / kOutputs % kGroups;
  const int r = output / (kOutputs * kGroups);
  const int w = output % kOutputs;
  const int n = (static_cast<int>(blockIdx.x) * kGroups + of_group) * kOutputs + w;
  if (n >= p.n) return;
  float value = partial.product(of_group, r, w);
  float inverse = 1;
  if constexpr (kNorm) inverse = partial.inverse_norm(of_group, r, p);
  if constexpr (kNorm) value = __fmul_rn(value, inverse);
  if constexpr (kGated) {
    value = gated(value, __fmul_rn(partial.product(of_group, r, w + kOutputs), inverse));
  }
  if (p.bias) value = __fadd_rn(value, p.bias[n]);
  float* out = p.out + int64_t{r} * p.n + n;
  *out = p.accumulate ? __fadd_rn(*out, value) : value;
}

// Registers allow 32 warps per SM at one row, with 128 KiB in flight, and 16 at three and more.
template <int kRows, bool kNorm, bool kGated>
void launch(const GemvParams& p, cudaStream_t stream) {
  constexpr int kBlocks = kRows == 1 ? 4 : kRows == 2 ? 3 : 2;
  constexpr int kPerBlock = kGroups * (kGated ? kWeights / 2 : kWeights);
  const unsigned blocks = (static_cast<unsigned>(p.n) + kPerBlock - 1) / kPerBlock;
  launch_early(gemv_kernel<kRows, kBlocks, kNorm, kGated>, blocks, kThreads, 0, stream, p);
}

template <int kRows>
void launch(const GemvParams& p, cudaStream_t stream) {
  if (p.gated) {
    launch<kRows, true, true>(p, stream);
  } else if (p.norm) {
    launch<kRows, true, false>(p, stream);
  } else {
    launch<kRows, false, false>(p, stream);
  }
}

template <int... kRows>
void launch_rows(const GemvParams& p, cudaStream_t stream, std::integer_sequence<int, kRows...>) {
  ((p.rows == kRows + 1 ? launch<kRows + 1>(p, stream) : void()), ...);
}

bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

void gemv(const GemvParams& params, cudaStream_t stream) {
  const GemvParams& p = params;
  check_argument(p.rows >= 0 && p.rows <= kMaxGemvRows, "rows is {}, must be 0 to {}", p.rows,
                 kMaxGemvRows);
  check_argument(p.n >= 0 && p.n <= (1 << 30), "n is {}, must be 0 to {}", p.n, 1 << 30);
  check_argument(p.k >= kVector && p.k <= kMaxCols && p.k % kVector == 0,
                 "k is {}, must be a multiple of {}, at most {}", p.k, kVector, kMaxCols);
  check_argument(is_aligned(p.x) && is_aligned(p.weight) && is_aligned(p.norm),
                 "x is at {}, weight at {}, norm at {}, must be multiples of 16",
                 reinterpret_cast<uintptr_t>(p.x), reinterpret_cast<uintptr_t>(p.weight),
                 reinterpret_cast<uintptr_t>(p.norm));
  check_argument(!p.gated || (p.norm && !p.bias && !p.accumulate),
                 "a gated product takes a norm ({}), no bias ({}) and does not accumulate ({})",
                 p.norm != nullptr, p.bias != nullptr, p.accumulate);
  if (p.rows == 0 || p.n == 0) return;
  launch_rows(p, stream, std::make_integer_sequence<int, kMaxGemvRows>());
}

}  // namespace freekv::cuda
