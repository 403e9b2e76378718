#include "backends/cuda/rope_append.hpp"

#include <cstdint>

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/rotate_head.cuh"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

// A block handles a row, one KV head of a sequence: a warp for each of its queries, one for k and
// one for v.
namespace freekv::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kMaxGroup = 16;

// What a block knows about its row, the same in all threads.
struct Step {
  SequenceLayer layer;
  int64_t tokens;   // T
  int32_t slot;     // of the current page
  int token;        // in that page
  bool retrieving;  // otherwise its rows are dense
  bool started;
};

template <int kDim>
__device__ float cosine(const Head<kDim>& a, const Head<kDim>& b) {
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

// Rotated, a query head goes to q; where the step retrieves, it is compared with the previous one
// and takes its place.
template <int kDim>
__device__ void keep_query(const RopeAppendParams& p, const Step& step, const Head<kDim>& v,
                           const Head<kDim>& previous, int b, int head, int lane,
                           float* similarity) {
  store_head(v, p.q + (int64_t{b} * p.kv.query_heads() + head) * kDim, p.rope, lane);
  if (!step.retrieving) return;
  const float result = cosine(v, previous);
  store_head(v, step.layer.previous_q + int64_t{head} * kDim, p.rope, lane);
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
    add_to(counters.tested, 1);
    add_to(counters.drifted, drifted ? 1 : 0);
  }
  return drifted ? RowMode::kCorrected : RowMode::kSpeculative;
}

// Of a thread. Blocks of up to 6 warps start while the products in front fill the device: their two
// blocks leave 8,192 registers of an SM.
template <int kDim>
constexpr int kRegisters = kDim <= 128 ? 40 : 64;

template <int kDim, typename Kv>
__global__ void __maxnreg__(kRegisters<kDim>)
    rope_append_kernel(const __grid_constant__ RopeAppendParams p) {
  __shared__ float similarity[kMaxGroup];
  __shared__ Angles<kDim> angles;
  __shared__ float q_norm[kDim], k_norm[kDim];
  let_next_start();
  const int m = static_cast<int>(blockIdx.x);
  const int b = static_cast<int>(blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = thread / kWarp;
  const int kv_heads = p.kv.kv_heads, query_heads = p.kv.query_heads(), group = p.kv.group;
  const int head = m * group + warp;  // of a query's warp
  // All but this step's products is ready or can be made while the kernel in front still runs: it
  // comes from memory, which takes longer than the rest of this kernel.
  const Step step = read_step(p, b, m);
  angles.fill(step.tokens - 1, p.frequencies, p.rope_scale);
  for (int i = thread; i < kDim; i += static_cast<int>(blockDim.x)) {
    if (p.q_norm) q_norm[i] = p.q_norm[i];
    if (p.k_norm) k_norm[i] = p.k_norm[i];
  }
  Head<kDim> previous = {};
  if (warp < group && step.retrieving) {
    previous = load_head<kDim>(step.layer.previous_q + int64_t{head} * kDim, p.rope, lane);
  }
  __syncthreads();
  wait_for_previous();
  const float* qkv = p.qkv + int64_t{b} * (query_heads + 2 * kv_heads) * kDim;
  const auto load = [&](int at) { return load_head<kDim>(qkv + int64_t{at} * kDim, p.rope, lane); };
  if (warp < group) {
    Head<kDim> v = load(head);
    if (p.q_norm) norm_head(v, q_norm, p.norm_eps, p.rope, lane);
    angles.rotate(v, p.rope, lane);
    keep_query(p, step, v, previous, b, head, lane, &similarity[warp]);
  } else if (warp == group) {
    Head<kDim> v = load(query_heads + m);
    if (p.k_norm) norm_head(v, k_norm, p.norm_eps, p.rope, lane);
    angles.rotate(v, p.rope, lane);
    store_head(v, current_key<Kv>(p, step, m), p.rope, lane);
  } else {
    store_head(load(query_heads + kv_heads + m), current_value<Kv>(p, step, m), p.rope, lane);
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
