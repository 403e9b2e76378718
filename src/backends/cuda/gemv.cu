#include "backends/cuda/gemv.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "backends/cuda/launch.cuh"
#include "backends/cuda/read_once.cuh"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

// A few blocks per SM stay for the whole product, so that weights stream without a pause; x stands
// in shared memory. Groups of kSlices warps take kWeights weight rows at a time, a unit: warp s
// adds up the chunks s, s + kSlices, ... in that order; shuffles add up its lanes, and the slices
// are added in their order. The order in which one output is summed thus depends on K alone,
// neither on the number of rows nor on the GPU nor on which group takes a unit.
namespace freekv::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kVector = 8;               // bf16 values in a load of 16 bytes
constexpr int kChunk = kWarp * kVector;  // values of a weight row that a warp reads at once
constexpr int kSlices = 4;
constexpr int kGroup = kSlices * kWarp;  // threads
constexpr int kWeights = 4;  // rows that a warp reads at once: the more, the less often x is read
// Chunks of each of them: 16 loads in flight per lane where sums leave the registers for it.
template <int kRows>
constexpr int kUnroll = kRows == 1 ? 4 : 2;
// Two blocks share an SM where x leaves room, with registers for no third: one of the next kernel
// would come early to some SMs only. What is left takes the small kernels beside this one. Larger x
// have an SM's only block.
constexpr int kThreads = 256;
constexpr int kMaxThreads = 512;
template <int kRows>
constexpr int kRegisters = kRows <= 4 ? 112 : 128;
constexpr int kStagers = kThreads;  // threads that norm x: as many in both cases, for the same sums
constexpr size_t kMaxShared = size_t{227} << 10;
constexpr int kMaxCols = 1 << 24;  // kMaxGemvRows of them are counted in an int
constexpr int kLanesPerSum = kWarp / kWeights;

// Weights are read once: they must not push x, which is read by every warp, out of L1. Volatile, so
// that the compiler keeps all loads of an iteration in front of the sums.
__device__ uint4 load_weights(const uint4* from, uint64_t policy) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(__cvta_generic_to_global(from)), "l"(policy));
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

// Adds this lane's kVector products of every row of x with every weight row. In halves, so that
// only half of the weights take up registers as f32.
template <int kRows>
__device__ void add_vector(const float4* x, int stride, bool swapped, const uint4 (&raw)[kWeights],
                           float (&sums)[kRows][kWeights]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool second = (half == 1) != swapped;
    const int at = second ? 1 : 0;
    float4 weight[kWeights];
#pragma unroll
    for (int w = 0; w < kWeights; ++w) {
      weight[w] = unpack(second ? raw[w].z : raw[w].x, second ? raw[w].w : raw[w].y);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float4 values = x[at + r * stride];
#pragma unroll
      for (int w = 0; w < kWeights; ++w) {
        sums[r][w] = add_products(values, weight[w], sums[r][w]);
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

// Weight rows are shared out in units of kWeights; gated, half of them are gates and half are what
// they let through.
template <bool kGated>
constexpr int kOutputsOfUnit = kGated ? kWeights / 2 : kWeights;

int units_of(const GemvParams& p) {
  const int outputs = p.gated ? kOutputsOfUnit<true> : kOutputsOfUnit<false>;
  return (p.n + outputs - 1) / outputs;
}

// Shared memory of a block: x, then what the warps hand each other.
template <int kRows>
struct Shared {
  float4* x;                           // [kRows][K/4], normed if asked for
  float (*partial)[kRows][kWeights];   // [groups][2][kSlices]: sums over lanes, of units in turn
  float (*squares)[kStagers / kWarp];  // [kRows]
  int (*next)[2];                      // [groups]: units after the next, in turn

  __device__ Shared(float4* memory, int k, int groups)
      : x(memory),
        partial(reinterpret_cast<float (*)[kRows][kWeights]>(memory + kRows * (k / 4))),
        squares(reinterpret_cast<float (*)[kStagers / kWarp]>(partial + groups * 2 * kSlices)),
        next(reinterpret_cast<int (*)[2]>(squares + kRows)) {}

  static size_t bytes(int k, int groups) {
    return kRows * sizeof(float) *
               (static_cast<size_t>(k) + static_cast<size_t>(groups * 2 * kSlices * kWeights) +
                kStagers / kWarp) +
           static_cast<size_t>(groups) * 2 * sizeof(int);
  }
};

__device__ float add_all_lanes(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = __fadd_rn(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  return value;
}

// The weights of the norm go where row 0 of x will be, while x is still being made: they come from
// memory, x from L2. Each thread puts them where it will need them.
template <int kRows>
__device__ void stage_norm(const GemvParams& p, const Shared<kRows>& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= kStagers) return;
  const float4* norm = reinterpret_cast<const float4*>(p.norm);
#pragma unroll 4
  for (int i = thread; i < p.k / 4; i += kStagers) shared.x[i] = norm[i];
}

template <int kRows, bool kNorm>
__device__ void stage_x(const GemvParams& p, const Shared<kRows>& shared) {
  const int thread = static_cast<int>(threadIdx.x), quads = p.k / 4;
  const float4* x = reinterpret_cast<const float4*>(p.x);
  if constexpr (!kNorm) {
#pragma unroll 4
    for (int i = thread; i < kRows * quads; i += static_cast<int>(blockDim.x)) {
      shared.x[i] = x[i];
    }
  } else {
    if (thread >= kStagers) return;
    float squares[kRows] = {};
#pragma unroll(kRows <= 2 ? 4 : 1)
    for (int i = thread; i < quads; i += kStagers) {
      const float4 by = shared.x[i];  // of stage_norm()
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 v = x[r * quads + i];
        squares[r] = add_products(v, v, squares[r]);
        shared.x[r * quads + i] = {v.x * by.x, v.y * by.y, v.z * by.z, v.w * by.w};
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float sum = add_all_lanes(squares[r]);
      if (thread % kWarp == 0) shared.squares[r][thread / kWarp] = sum;
    }
  }
}

// 1 / the root mean square of row r.
template <int kRows>
__device__ float inverse_norm(const GemvParams& p, const Shared<kRows>& shared, int r) {
  float value = 0;
#pragma unroll
  for (int i = 0; i < kStagers / kWarp; ++i) value = __fadd_rn(value, shared.squares[r][i]);
  return 1.0f / sqrtf(value / static_cast<float>(p.k) + p.norm_eps);
}

// Where a warp is in its weights.
struct Reader {
  const uint4* weight;
  int vectors;  // of a row
  int64_t far;  // vectors from a gate to what it lets through
  int outputs;  // N
  int slice;
  int lane;
  uint64_t policy = read_once();

  // Beyond the last row, and beyond the end of a row, the last is read: nothing is added there.
  template <int kNear, int kChunks>
  __device__ void load(int unit, int chunk, uint4 (&raw)[kChunks][kWeights]) const {
    const int first = min(unit * kNear, outputs - 1);
    const int spare = outputs - 1 - first;
    const uint4* from = weight + int64_t{first} * vectors;
#pragma unroll
    for (int u = 0; u < kChunks; ++u) {
      const int at = min((chunk + u * kSlices) * kWarp + lane, vectors - 1);
#pragma unroll
      for (int w = 0; w < kWeights; ++w) {
        const uint4* row = from + (w < kNear ? 0 : far);
        raw[u][w] = load_weights(row + (min(w % kNear, spare) * vectors + at), policy);
      }
    }
  }
};

__device__ float gated(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

// Waits for the kSlices warps of this group.
__device__ void join_group(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(kGroup) : "memory");
}

// One output of a unit, which a lane of the warp that writes them has, and what is added to it:
// asked for before the product, since that is a trip to memory.
template <int kRows, bool kGated>
struct Output {
  static constexpr int kOfUnit = kOutputsOfUnit<kGated>;
  static_assert(kRows * kOfUnit <= kWarp);
  int w, r, n;
  bool exists;
  float* to;
  float bias = 0, old = 0;

  __device__ Output(const GemvParams& p, int unit, int lane)
      : w(lane % kOfUnit),
        r(lane / kOfUnit),
        n(unit * kOfUnit + w),
        exists(r < kRows && n < p.n),
        to(p.out + int64_t{r} * p.n + n) {
    if (!exists) return;
    if (p.bias) bias = p.bias[n];
    if (p.accumulate) old = *to;
  }
};

// The outputs of one unit, by one warp: slices in their order, then what comes behind the product.
template <int kRows, bool kNorm, bool kGated>
__device__ void write_unit(const GemvParams& p, const Shared<kRows>& shared,
                           const float (*partial)[kRows][kWeights],
                           const Output<kRows, kGated>& output) {
  const int w = output.w, r = output.r;
  if (!output.exists) return;
  const auto product = [&](int at) {
    float value = partial[0][r][at];
#pragma unroll
    for (int s = 1; s < kSlices; ++s) value = __fadd_rn(value, partial[s][r][at]);
    return value;
  };
  float value = product(w), inverse = 1;
  if constexpr (kNorm) inverse = inverse_norm(p, shared, r);
  if constexpr (kNorm) value = __fmul_rn(value, inverse);
  if constexpr (kGated) value = gated(value, __fmul_rn(product(w + output.kOfUnit), inverse));
  if (p.bias) value = __fadd_rn(value, output.bias);
  *output.to = p.accumulate ? __fadd_rn(output.old, value) : value;
}

template <int kRows, bool kNorm, bool kGated>
__global__ void __maxnreg__(kRegisters<kRows>)
    gemv_kernel(const __grid_constant__ GemvParams p, const int units) {
  constexpr int kOutputs = kOutputsOfUnit<kGated>;
  extern __shared__ float4 gemv_memory[];
  let_next_start();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int groups = static_cast<int>(blockDim.x) / kGroup;
  const int slice = warp % kSlices, group = warp / kSlices;
  const int all_groups = groups * static_cast<int>(gridDim.x);
  const int vectors = p.k / kVector;
  const int chunks = (p.k + kChunk - 1) / kChunk;
  const Shared<kRows> shared(gemv_memory, p.k, groups);
  const Reader reader{
      static_cast<const uint4*>(p.weight), vectors, int64_t{p.n} * vectors, p.n, slice, lane};

  // Asked for a unit ahead, by one lane of a group, since that is a trip to memory.
  const bool leads = slice == 0 && lane == 0;
  const auto unit_after = [&](int unit) {
    if (p.taken == nullptr || unit >= units) return unit + all_groups;
    return all_groups + static_cast<int>(atomicAdd(p.taken, 1u));
  };

  // The first weights are on their way before there is an x to multiply them with.
  uint4 raw[kUnroll<kRows>][kWeights];
  int unit = static_cast<int>(blockIdx.x) * groups + group, chunk = slice;
  if (unit < units) reader.load<kOutputs>(unit, chunk, raw);
  int found = leads ? unit_after(unit) : 0;
  if constexpr (kNorm) stage_norm<kRows>(p, shared);
  wait_for_previous();
  stage_x<kRows, kNorm>(p, shared);
  int turn = 0;
  if (leads) shared.next[group][turn] = found;
  __syncthreads();

  int next = shared.next[group][turn];
  const bool swapped = takes_second_half_first(lane);
  float sums[kRows][kWeights] = {};
  const bool writes = slice == kSlices - 1;
  Output<kRows, kGated> output(p, writes ? unit : units, lane);
  bool begins = true;
  while (unit < units) {
    if (begins && leads) found = unit_after(next);
#pragma unroll
    for (int u = 0; u < kUnroll<kRows>; ++u) {
      const int at = (chunk + u * kSlices) * kWarp + lane;
      if (at < vectors) {
        add_vector<kRows>(shared.x + 2 * at, 2 * vectors, swapped, raw[u], sums);
      }
    }
    chunk += kUnroll<kRows> * kSlices;
    begins = chunk >= chunks;
    if (begins) {
      chunk = slice;
      unit = next;
    }
    if (unit < units) reader.load<kOutputs>(unit, chunk, raw);
    if (!begins) continue;
    turn ^= 1;
    auto* partial = shared.partial + (group * 2 + turn) * kSlices;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float value = add_lanes(sums[r], lane);
      if (lane % kLanesPerSum == 0) partial[slice][r][lane / kLanesPerSum] = value;
#pragma unroll
      for (int w = 0; w < kWeights; ++w) sums[r][w] = 0;
    }
    if (leads) shared.next[group][turn] = found;
    join_group(group);  // again before what is read here is written in the turn after the next
    next = shared.next[group][turn];
    if (!writes) continue;
    write_unit<kRows, kNorm, kGated>(p, shared, partial, output);
    output = {p, unit, lane};
  }
}

template <int kRows, bool kNorm, bool kGated>
void launch(const GemvParams& p, cudaStream_t stream) {
  const auto kernel = gemv_kernel<kRows, kNorm, kGated>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(kMaxShared)),
             "gemv: shared memory");
  const int units = units_of(p), sms = multiprocessors();
  // Two blocks leave some shared memory to kernels beside this one.
  const size_t few = Shared<kRows>::bytes(p.k, kThreads / kGroup);
  const bool two = few <= kMaxShared / 5;
  const int threads = two ? kThreads : kMaxThreads, groups = threads / kGroup;
  const int blocks = std::min(two ? 2 * sms : sms, (units + groups - 1) / groups);
  launch_early(kernel, static_cast<unsigned>(blocks), threads, Shared<kRows>::bytes(p.k, groups),
               stream, p, units);
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

// Rows of x that fit in shared memory beside what the warps leave there.
int rows_at_once(const GemvParams& p) {
  const size_t row = Shared<1>::bytes(p.k, kMaxThreads / kGroup);
  return static_cast<int>(kMaxShared / row);
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
  const int most = rows_at_once(p);
  check_argument(most >= 1, "K is {} and N {}, too much for {} bytes of shared memory", p.k, p.n,
                 kMaxShared);
  GemvParams part = p;
  if (p.rows > most) part.taken = nullptr;  // the count is of one pass
  for (int first = 0; first < p.rows; first += most) {
    part.x = p.x + int64_t{first} * p.k;
    part.out = p.out + int64_t{first} * p.n;
    part.rows = std::min(most, p.rows - first);
    launch_rows(part, stream, std::make_integer_sequence<int, kMaxGemvRows>());
  }
}

}  // namespace freekv::cuda
