// What choosing pages is made of, each done by a whole CTA: filtering in order, the k-th largest of
// floats, and sorting. All of it gives the same result whatever the timing and the number of
// threads.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace freekv::cuda {

/// At most as many warps as lanes, so that a warp can scan one value of each.
inline constexpr int kMaxSelectWarps = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

/// Shared memory of the functions below.
struct SelectShared {
  uint32_t histogram[4][256];      // see clear_histogram()
  int32_t found[kMaxSelectWarps];  // of compact()
  int32_t last_equal;
};

__device__ inline int cta_threads() { return static_cast<int>(blockDim.x); }

/// Before kth_largest(), and a barrier between.
__device__ inline void clear_histogram(SelectShared& shared) {
  for (int i = threadIdx.x; i < 4 * 256; i += cta_threads()) {
    shared.histogram[i / 256][i % 256] = 0;
  }
}

template <typename T>
__device__ T sum_of_warp(T value) {
#pragma unroll
  for (int offset = 16; offset >= 1; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

/// Calls put(rank, i) for those i < n that wanted(i) holds for, ranks in order of i, and returns
/// how many they are. wanted() is asked twice. Ends with a barrier: all see what put() wrote to
/// memory.
template <typename Wanted, typename Put>
__device__ int compact(int n, SelectShared& shared, Wanted wanted, Put put) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  // Each warp has a run of its own, so that only the warps' counts cross a barrier.
  const int run = (n + cta_threads() - 1) / cta_threads() * 32;
  const int begin = min(warp * run, n), end = min(begin + run, n);
  int found = 0;
  for (int first = begin; first < end; first += 32) {
    const int i = first + lane;
    found += __popc(__ballot_sync(kAllLanes, i < end && wanted(i)));
  }
  if (lane == 0) shared.found[warp] = found;
  __syncthreads();
  const int of_lane = lane < cta_threads() / 32 ? shared.found[lane] : 0;
  const int total = sum_of_warp(of_lane);
  int rank = sum_of_warp(lane < warp ? of_lane : 0);
  for (int first = begin; first < end; first += 32) {
    const int i = first + lane;
    const bool takes = i < end && wanted(i);
    const unsigned taken = __ballot_sync(kAllLanes, takes);
    if (takes) put(rank + __popc(taken & ((1u << lane) - 1)), i);
    rank += __popc(taken);
  }
  __syncthreads();
  return total;
}

/// compact() of those that wanted(i) holds for to put(rank, i), and of those among them that
/// known(i) does not hold for to put_new(rank, i); fewer than 2^16 of each. Returns how many of
/// both. Where the CTA has a part of what is filtered only, join() gets how many it found, and says
/// how many there are in the parts before it and in all; both counts are in 16 bits each.
struct Compacted {
  int all;
  int fresh;
};
struct Joined {
  int before;
  int total;
};
struct AllInOne {
  __device__ Joined operator()(int found) const { return {0, found}; }
};
template <typename Wanted, typename Known, typename Put, typename PutNew, typename Join = AllInOne>
__device__ Compacted compact_two(int n, SelectShared& shared, Wanted wanted, Known known, Put put,
                                 PutNew put_new, Join join = {}) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int run = (n + cta_threads() - 1) / cta_threads() * 32;
  const int begin = min(warp * run, n), end = min(begin + run, n);
  struct Masks {
    unsigned all, fresh;
  };
  const auto taken = [&](int i) -> Masks {
    const bool takes = i < end && wanted(i);
    return {__ballot_sync(kAllLanes, takes), __ballot_sync(kAllLanes, takes && !known(i))};
  };
  int found = 0;
  for (int first = begin; first < end; first += 32) {
    const auto [all, fresh] = taken(first + lane);
    found += __popc(all) + (__popc(fresh) << 16);
  }
  if (lane == 0) shared.found[warp] = found;
  __syncthreads();
  const int of_lane = lane < cta_threads() / 32 ? shared.found[lane] : 0;
  const Joined joined = join(sum_of_warp(of_lane));
  int rank = joined.before + sum_of_warp(lane < warp ? of_lane : 0);
  const unsigned below = (1u << lane) - 1;
  for (int first = begin; found != 0 && first < end; first += 32) {
    const auto [all, fresh] = taken(first + lane);
    if ((all >> lane & 1u) != 0) put((rank & 0xffff) + __popc(all & below), first + lane);
    if ((fresh >> lane & 1u) != 0) put_new((rank >> 16) + __popc(fresh & below), first + lane);
    rank += __popc(all) + (__popc(fresh) << 16);
  }
  __syncthreads();
  return {joined.total & 0xffff, joined.total >> 16};
}

/// Order of floats as an order of integers: NaN is 0, the smallest, and both zeros are equal.
__device__ inline uint32_t order_of(float value) {
  if (value != value) return 0;
  const uint32_t bits = __float_as_uint(value);
  if (bits == 0x80000000u) return 0x80000000u;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// The k-th largest, or a bound below it and above all that are not among the k largest: of those
/// equal to it the first `taken` belong to the k largest, of `equals`.
struct Kth {
  uint32_t order = 0;
  int taken = 0;
  int equals = 0;
};

// Where the bin of a digit stands, so that the lanes of find_digit() meet no bank twice.
__device__ inline uint32_t bin_of(uint32_t digit) { return digit % 8 * 32 + digit / 8; }

/// The digit in which the `remaining`-th largest lies, how many of those with it are to be taken,
/// and how many there are.
struct Digit {
  uint32_t digit;
  int remaining;
  int equals;
};

/// By a warp, all of whose lanes get it. A lane has eight bins, from above.
__device__ inline Digit find_digit(const uint32_t* histogram, int remaining) {
  const int lane = threadIdx.x % 32;
  const int top = 255 - 8 * lane;
  int bins[8], own = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    bins[j] = static_cast<int>(histogram[bin_of(top - j)]);
    own += bins[j];
  }
  int upto = own;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int before = __shfl_up_sync(kAllLanes, upto, offset);
    if (lane >= offset) upto += before;
  }
  int above = upto - own;
  const int finder = __ffs(__ballot_sync(kAllLanes, above < remaining && upto >= remaining)) - 1;
  Digit found{};
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    if (above < remaining && above + bins[j] >= remaining) {
      found = {static_cast<uint32_t>(top - j), remaining - above, bins[j]};
    }
    above += bins[j];
  }
  return {__shfl_sync(kAllLanes, found.digit, finder),
          __shfl_sync(kAllLanes, found.remaining, finder),
          __shfl_sync(kAllLanes, found.equals, finder)};
}

// Adds one to the bin of each lane in `lanes`. Floats of one sign and size share their first digit:
// lanes with the same bin are counted together, or they would take turns at it.
__device__ inline void count_digit(unsigned lanes, uint32_t digit, uint32_t* histogram) {
  const unsigned peers = __match_any_sync(lanes, digit);
  if ((peers & ((1u << threadIdx.x % 32) - 1)) == 0) {
    atomicAdd(&histogram[bin_of(digit)], static_cast<uint32_t>(__popc(peers)));
  }
}

// Counts the values whose first digits are those found, by the digit of this pass.
__device__ inline void count_digits(const float* values, int n, int pass, uint32_t found,
                                    uint32_t* histogram) {
  const int shift = 24 - 8 * pass;
  const uint32_t known = pass == 0 ? 0 : 0xffffffffu << (shift + 8);
  for (int i = threadIdx.x; i < n; i += cta_threads()) {
    const uint32_t order = order_of(values[i]);
    const uint32_t digit = (order >> shift) & 255u;
    if (pass == 0) {
      count_digit(__activemask(), digit, histogram);
    } else if (((order ^ found) & known) == 0) {
      atomicAdd(&histogram[bin_of(digit)], 1u);
    }
  }
}

/// Radix select, 8 bits a pass; 1 <= k <= n. count(pass, found) counts all values whose first
/// digits are those of `found` by the next one, in SelectShared::histogram[pass] or the like, which
/// it returns; it ends with a barrier.
template <typename Count>
__device__ Kth kth_largest(int n, int k, Count count) {
  Kth kth{0, k, n};
  for (int pass = 0; pass < 4; ++pass) {
    const Digit found = find_digit(count(pass, kth.order), kth.taken);
    kth.order |= found.digit << (24 - 8 * pass);
    kth.taken = found.remaining;
    kth.equals = found.equals;
    if (kth.taken == kth.equals) break;  // whatever its other digits, all that is left is taken
  }
  return kth;
}

/// The values are visible to all threads.
__device__ inline Kth kth_largest(const float* values, int n, int k, SelectShared& shared) {
  return kth_largest(n, k, [&](int pass, uint32_t found) {
    count_digits(values, n, pass, found, shared.histogram[pass]);
    __syncthreads();
    return shared.histogram[pass];
  });
}

/// The k best of n values: all, or those above the k-th best and the first of its equals.
struct KBest {
  const float* values;
  bool all;
  uint32_t order;
  int last_equal;

  __device__ bool has(int i) const {
    if (all) return true;
    const uint32_t at = order_of(values[i]);
    return at > order || (at == order && i <= last_equal);
  }
};

/// All threads see the values, which are not read if there are no more than k.
__device__ inline KBest k_best(const float* values, int n, int k, SelectShared& shared) {
  if (n <= k) return {values, true, 0, 0};
  const Kth kth = kth_largest(values, n, k, shared);
  KBest best{values, false, kth.order, n};
  if (kth.taken < kth.equals) {  // of equals the lower are taken, up to this one
    compact(
        n, shared, [&](int i) { return order_of(values[i]) == kth.order; },
        [&](int rank, int i) {
          if (rank == kth.taken - 1) shared.last_equal = i;
        });
    best.last_equal = shared.last_equal;
  }
  return best;
}

/// Ascending; `size` is a power of two and at least 64. The keys are visible to all threads before,
/// and after.
__device__ inline void sort_ascending(unsigned long long* keys, int size) {
  for (int run = 2; run <= size; run *= 2) {
    for (int step = run / 2; step >= 1; step /= 2) {
      for (int pair = threadIdx.x; pair < size / 2; pair += cta_threads()) {
        const int low = 2 * pair - (pair & (step - 1));
        const unsigned long long a = keys[low], b = keys[low + step];
        if ((a > b) == ((low & run) == 0)) {
          keys[low] = b;
          keys[low + step] = a;
        }
      }
      // With steps of up to 32 a warp's pairs are among 64 keys that no other warp touches.
      const int next = step > 1 ? step / 2 : run;
      if (step > 32 || next > 32) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
  __syncthreads();
}

}  // namespace freekv::cuda
