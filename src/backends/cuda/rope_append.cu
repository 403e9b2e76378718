#include "backends/cuda/rope_append.hpp"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/launch.cuh"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

// A block handles a row, one KV head of a sequence: a warp for each of its queries, one for k and
// one for v.
namespace freekv::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kMaxGroup = 16;
constexpr int kMaxThreads = (kMaxGroup + 2) * kWarp;
constexpr int kAngleThreads = 128;

// What a block knows about its row, the same in all threads.
struct Step {
  SequenceLayer layer;
  int64_t tokens;   // T
  int32_t slot;     // of the current page
  int token;        // in that page
  bool retrieving;  // otherwise its rows are dense
  bool started;
};

// The pairs of one head that this lane rotates: numbers lane, lane + 32, ... below d / 2.
template <int kDim>
struct Pairs {
  static constexpr int kCount = (kDim / 2 + kWarp - 1) / kWarp;
  float first[kCount];
  float second[kCount];
};

// Where the values of a pair stand in their head.
struct PairPlaces {
  int first;
  int second;
};

template <int kDim>
__device__ PairPlaces places_of(int pair, Rope rope) {
  if (rope == Rope::kInterleaved) return {2 * pair, 2 * pair + 1};
  return {pair, pair + kDim / 2};
}

// Calls visit(i, pair) for this lane's pairs, the i-th of which is `pair`.
template <int kDim, typename Visit>
__device__ void for_each_pair(int lane, Visit&& visit) {
#pragma unroll
  for (int i = 0; i < Pairs<kDim>::kCount; ++i) {
    const int pair = lane + i * kWarp;
    if (pair < kDim / 2) visit(i, pair);
  }
}

template <int kDim>
__device__ Pairs<kDim> load_pairs(const float* head, Rope rope, int lane) {
  Pairs<kDim> v = {};
  for_each_pair<kDim>(lane, [&](int i, int pair) {
    const PairPlaces at = places_of<kDim>(pair, rope);
    v.first[i] = head[at.first];
    v.second[i] = head[at.second];
  });
  return v;
}

__device__ void convert(float value, float* to) { *to = value; }
__device__ void convert(float value, __nv_bfloat16* to) { *to = __float2bfloat16_rn(value); }
__device__ void convert(float value, __half* to) { *to = __float2half_rn(value); }

template <int kDim, typename T>
__device__ void store_pairs(const Pairs<kDim>& v, T* head, Rope rope, int lane) {
  for_each_pair<kDim>(lane, [&](int i, int pair) {
    const PairPlaces at = places_of<kDim>(pair, rope);
    convert(v.first[i], head + at.first);
    convert(v.second[i], head + at.second);
  });
}

template <int kDim>
__device__ void rotate(Pairs<kDim>& v, const float* cosines, const float* sines, int lane) {
  for_each_pair<kDim>(lane, [&](int i, int pair) {
    const float a = v.first[i];
    const float b = v.second[i];
    v.first[i] = a * cosines[pair] - b * sines[pair];
    v.second[i] = a * sines[pair] + b * cosines[pair];
  });
}

__device__ float add_lanes(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

template <int kDim>
__device__ float dot(const Pairs<kDim>& a, const Pairs<kDim>& b) {
  float sum = 0;  // pairs beyond d / 2 are zero
#pragma unroll
  for (int i = 0; i < Pairs<kDim>::kCount; ++i) {
    sum = fmaf(a.first[i], b.first[i], sum);
    sum = fmaf(a.second[i], b.second[i], sum);
  }
  return add_lanes(sum);
}

template <int kDim>
__device__ float cosine(const Pairs<kDim>& a, const Pairs<kDim>& b) {
  const float lengths = sqrtf(dot(a, a)) * sqrtf(dot(b, b));
  const float product = dot(a, b);
  if (lengths == 0) return 0;
  const float result = product / lengths;
  // Equal vectors may give 1 + rounding, which would pass a tau that nothing should pass. Not with
  // fmin and fmax: they would lose a NaN.
  if (result > 1) return 1;
  return result < -1 ? -1 : result;
}

__device__ Step read_step(const RopeAppendParams& p, int b, int m) {
  Step step;
  step.layer = p.batch.layer(b, p.layer);
  step.tokens = p.batch.length(b);
  const int64_t position = step.tokens - 1;
  const auto page = static_cast<int32_t>(position / p.map.page);
  step.token = static_cast<int>(position % p.map.page);
  step.slot = step.layer.budgeted ? p.map.common_slot(page) : page;
  step.retrieving = step.layer.retrieves && p.map.over_budget(step.tokens);
  step.started = step.retrieving && step.layer.started[m] != 0;
  return step;
}

__device__ uint64_t mixed(uint64_t x) {  // the finalizer of splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Uniform in [0, 1), the same for the same arguments.
__device__ float draw(int64_t tokens, int layer, int sequence, int head) {
  uint64_t hash = mixed(static_cast<uint64_t>(tokens) + 0x9e3779b97f4a7c15ull);
  hash = mixed(hash + static_cast<uint32_t>(layer));
  hash = mixed(hash + static_cast<uint32_t>(sequence));
  hash = mixed(hash + static_cast<uint32_t>(head));
  return static_cast<float>(hash >> 40) * 0x1p-24f;
}

// The head divided by its root mean square, times `weight`.
template <int kDim>
__device__ void norm_head(Pairs<kDim>& v, const float* weight, float eps, Rope rope, int lane) {
  const float inverse = 1.0f / sqrtf(dot(v, v) / static_cast<float>(kDim) + eps);
  const Pairs<kDim> by = load_pairs<kDim>(weight, rope, lane);
  for_each_pair<kDim>(lane, [&](int i, int) {
    v.first[i] *= inverse * by.first[i];
    v.second[i] *= inverse * by.second[i];
  });
}

// Rotated, a query head goes to q; where the step retrieves, it is compared with the previous one
// and takes its place. Each lane reads what it then overwrites.
template <int kDim>
__device__ void keep_query(const RopeAppendParams& p, const Step& step, const Pairs<kDim>& v, int b,
                           int head, int lane, float* similarity) {
  store_pairs(v, p.q + (int64_t{b} * p.kv.query_heads() + head) * kDim, p.rope, lane);
  if (!step.retrieving) return;
  float* previous = step.layer.previous_q + int64_t{head} * kDim;
  const float result = cosine(v, load_pairs<kDim>(previous, p.rope, lane));
  store_pairs(v, previous, p.rope, lane);
  if (lane == 0) *similarity = result;
}

template <typename Kv>
__device__ Kv* current_key(const RopeAppendParams& p, const Step& step, int head) {
  return static_cast<Kv*>(step.layer.fast) + p.kv.fast_key(step.slot, step.token, head);
}

template <typename Kv>
__device__ Kv* current_value(const RopeAppendParams& p, const Step& step, int head) {
  return static_cast<Kv*>(step.layer.fast) + p.kv.fast_value(step.slot, step.token, head);
}

// The mode of row (b, m), given the similarities of its query heads.
__device__ RowMode mode_of(const RopeAppendParams& p, const Step& step, int b, int m,
                           const float* similarity) {
  if (!step.retrieving) return RowMode::kDense;
  if (!step.started) return RowMode::kCorrected;
  float sum = 0;
  for (int g = 0; g < p.kv.group; ++g) sum += similarity[g];
  const int sequence = p.batch.sequence[b];
  const bool drifted = p.forced_drift < 0
                           ? !(sum / static_cast<float>(p.kv.group) >= p.tau)
                           : draw(step.tokens, p.layer, sequence, m) < p.forced_drift;
  if (p.counters != nullptr) {
    RowCounters& counters = p.counters[int64_t{sequence} * p.kv.kv_heads + m];
    counters.tested += 1;
    counters.drifted += drifted ? 1 : 0;
  }
  return drifted ? RowMode::kCorrected : RowMode::kSpeculative;
}

// Positions go to a million: an angle is exact as the f32 product that models were trained with,
// and sincosf reduces it exactly.
__global__ void __launch_bounds__(kAngleThreads) rope_angles_kernel(RopeAnglesParams p) {
  const int b = static_cast<int>(blockIdx.x);
  const auto position = static_cast<float>(p.batch.length(b) - 1);
  for (int pair = static_cast<int>(threadIdx.x); pair < p.pairs; pair += kAngleThreads) {
    float sine, cosine;
    sincosf(__fmul_rn(position, p.frequencies[pair]), &sine, &cosine);
    p.cosines[b * p.pairs + pair] = cosine * p.scale;
    p.sines[b * p.pairs + pair] = sine * p.scale;
  }
}

template <int kDim, typename Kv>
__global__ void __launch_bounds__(kMaxThreads, 1)
    rope_append_kernel(const __grid_constant__ RopeAppendParams p) {
  __shared__ float similarity[kMaxGroup];
  let_next_start();
  const int m = static_cast<int>(blockIdx.x);
  const int b = static_cast<int>(blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = thread / kWarp;
  const int kv_heads = p.kv.kv_heads, query_heads = p.kv.query_heads(), group = p.kv.group;
  // Of the last step, so that nothing in front of this kernel still writes it.
  const Step step = read_step(p, b, m);
  wait_for_previous();
  const float* qkv = p.qkv + int64_t{b} * (query_heads + 2 * kv_heads) * kDim;
  const float* cosines = p.cosines + b * (kDim / 2);
  const float* sines = p.sines + b * (kDim / 2);
  if (warp < group) {
    const int head = m * group + warp;
    Pairs<kDim> v = load_pairs<kDim>(qkv + int64_t{head} * kDim, p.rope, lane);
    if (p.q_norm) norm_head(v, p.q_norm, p.norm_eps, p.rope, lane);
    rotate(v, cosines, sines, lane);
    keep_query(p, step, v, b, head, lane, &similarity[warp]);
  } else if (warp == group) {
    Pairs<kDim> v = load_pairs<kDim>(qkv + int64_t{query_heads + m} * kDim, p.rope, lane);
    if (p.k_norm) norm_head(v, p.k_norm, p.norm_eps, p.rope, lane);
    rotate(v, cosines, sines, lane);
    store_pairs(v, current_key<Kv>(p, step, m), p.rope, lane);
  } else {
    const Pairs<kDim> v =
        load_pairs<kDim>(qkv + int64_t{query_heads + kv_heads + m} * kDim, p.rope, lane);
    store_pairs(v, current_value<Kv>(p, step, m), p.rope, lane);
  }
  __syncthreads();
  if (thread != 0) return;
  p.mode[int64_t{b} * kv_heads + m] = mode_of(p, step, b, m, similarity);
  if (step.retrieving) step.layer.started[m] = 1;
}

void check(const RopeAppendParams& p) {
  check_argument(p.batch.n >= 0, "n is {}, must be at least 0", p.batch.n);
  check_argument(p.layer >= 0 && p.layer < p.batch.layer_count, "layer is {}, must be below {}",
                 p.layer, p.batch.layer_count);
  check_argument(p.kv.kv_heads >= 1 && p.kv.group >= 1 && p.kv.group <= kMaxGroup,
                 "{} KV heads of {} query heads each, must be 1 or more of 1 to {}", p.kv.kv_heads,
                 p.kv.group, kMaxGroup);
  check_argument(p.kv.page >= 1 && p.kv.page == p.map.page,
                 "page is {} in kv and {} in map, must be equal", p.kv.page, p.map.page);
}

}  // namespace

void rope_angles(const RopeAnglesParams& params, cudaStream_t stream) {
  if (params.batch.n == 0) return;
  rope_angles_kernel<<<static_cast<unsigned>(params.batch.n), kAngleThreads, 0, stream>>>(params);
  check_cuda(cudaGetLastError(), "rope_angles");
}

void rope_append(const RopeAppendParams& params, cudaStream_t stream) {
  check(params);
  if (params.batch.n == 0) return;
  const dim3 blocks(static_cast<unsigned>(params.kv.kv_heads),
                    static_cast<unsigned>(params.batch.n));
  const auto threads = static_cast<unsigned>((params.kv.group + 2) * kWarp);
  with_head_dim(params.kv.head_dim, [&](auto dim) {
    if (params.kv.type == KvType::kBF16) {
      launch_early(rope_append_kernel<dim.value, __nv_bfloat16>, blocks, threads, 0, stream,
                   params);
    } else {
      launch_early(rope_append_kernel<dim.value, __half>, blocks, threads, 0, stream, params);
    }
  });
}

}  // namespace freekv::cuda
