// score_pages() of selection.hpp for key2: products of whole numbers, then ln sum exp over a page's
// tokens. The bytes of a sketch are read once, and 4 levels are multiplied at a time (dp4a), for
// all query heads.
#include <cmath>

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/score_rows.cuh"
#include "backends/cuda/selection.hpp"
#include "backends/cuda/sketch_values.cuh"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kHeads = 4;  // scored at once
constexpr float kLn2 = 0.69314718f;

// A team of lanes takes a page at a time: a lane some of its channels while they are weighed, then
// every kTeam-th token. A quad is 4 channels, a group 16, whose levels lie in one word per token.
template <int D, int P>
struct Tiling {
  static constexpr int kWarps = D > 128 ? 8 : 16;  // what shared memory has room for
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTeam = P < 32 ? P : 32;
  static constexpr int kTeams = 32 / kTeam;
  static constexpr int kTokens = P / kTeam;  // of a lane
  static constexpr int kQuads = D / 4;
  static constexpr int kLaneQuads = (kQuads + kTeam - 1) / kTeam;
  static constexpr int kGroups = D / 16;
  static constexpr int kRound = kWarps * kTeams;   // pages of the CTA at a time
  static constexpr int kSharers = kTeam / kHeads;  // lanes that over_team() gives the same head
  static constexpr int kPageBytes = 4 * D + D * P / 4;
  static_assert(kScoreSplit % kRound == 0);
};

// Words of shared memory: the queries [G][D], scores [G][kScoreSplit], and for each team the
// weights [kHeads][D], four of 8 bits to a word.
template <int D, int P>
constexpr size_t shared_words(int group) {
  using Tile = Tiling<D, P>;
  return static_cast<size_t>(group) * (D + kScoreSplit) +
         size_t{Tile::kWarps} * Tile::kTeams * kHeads * Tile::kQuads;
}

// A lane's part of its team's page.
template <int D, int P>
struct Held {
  uint2 lo[Tiling<D, P>::kLaneQuads], step[Tiling<D, P>::kLaneQuads];
  uint32_t levels[Tiling<D, P>::kGroups][Tiling<D, P>::kTokens];
};

// Page `page` of a split that has `pages`, of which the sketches are; zeros past its end.
template <int D, int P>
__device__ Held<D, P> load_page(const unsigned char* sketches, int page, int pages) {
  using Tile = Tiling<D, P>;
  const int in_team = threadIdx.x % Tile::kTeam;
  const bool exists = page < pages;
  const unsigned char* sketch = sketches + int64_t{page} * Tile::kPageBytes;
  const auto* lo = reinterpret_cast<const uint2*>(sketch);
  const auto* levels = reinterpret_cast<const uint32_t*>(sketch) + D;
  Held<D, P> held;
#pragma unroll
  for (int i = 0; i < Tile::kLaneQuads; ++i) {
    const int quad = i * Tile::kTeam + in_team;
    const bool has = exists && quad < Tile::kQuads;
    held.lo[i] = has ? __ldcs(lo + quad) : uint2{0, 0};
    held.step[i] = has ? __ldcs(lo + Tile::kQuads + quad) : uint2{0, 0};
  }
#pragma unroll
  for (int group = 0; group < Tile::kGroups; ++group) {
#pragma unroll
    for (int u = 0; u < Tile::kTokens; ++u) {
      const int token = u * Tile::kTeam + in_team;
      held.levels[group][u] = exists ? __ldcs(levels + group * P + token) : 0;
    }
  }
  return held;
}

template <typename T>
__device__ void unpack_quad(uint2 raw, float (&to)[4]) {
  const float2 low = Word<T>::unpack(raw.x), high = Word<T>::unpack(raw.y);
  to[0] = low.x;
  to[1] = low.y;
  to[2] = high.x;
  to[3] = high.y;
}

// q.key = base + unit * (weights . levels), of one of the kHeads query heads, with what turns it
// into an exponent of two. Of the lanes that share a head each holds that head's.
struct Weighed {
  float factor;  // of weights . levels
  float offset;
};

// Weighs a page's channels (Backend::score_key2_pages()) for the heads from `q` on, of which there
// are `heads`; the weights go to the team's `weights`.
template <typename T, int D, int P>
__device__ Weighed weigh_page(const Held<D, P>& held, const float* q, int heads, float scale2,
                              uint32_t* weights) {
  using Tile = Tiling<D, P>;
  const int in_team = threadIdx.x % Tile::kTeam;
  float product[kHeads][Tile::kLaneQuads][4];
  float base[kHeads] = {}, most[kHeads] = {};
#pragma unroll
  for (int i = 0; i < Tile::kLaneQuads; ++i) {
    const int quad = i * Tile::kTeam + in_team;
    float lo[4], step[4];
    unpack_quad<T>(held.lo[i], lo);
    unpack_quad<T>(held.step[i], step);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float4 x = {};
      if (h < heads && quad < Tile::kQuads) {
        x = *reinterpret_cast<const float4*>(q + h * D + 4 * quad);
      }
      const float query[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        product[h][i][e] = __fmul_rn(query[e], step[e]);
        most[h] = fmaxf(most[h], fabsf(product[h][i][e]));
        base[h] = fmaf(query[e], fmaf(0.5f, step[e], lo[e]), base[h]);
      }
    }
  }
  const float largest = over_team<Tile::kTeam>(most, Largest{});
  const float middle = over_team<Tile::kTeam>(base, Sum{});
  const float own_inverse = largest >= 0x1p-100f ? __fdiv_rn(127.0f, largest) : 0.0f;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float inverse = __shfl_sync(kAllOfWarp, own_inverse, h * Tile::kSharers, Tile::kTeam);
#pragma unroll
    for (int i = 0; i < Tile::kLaneQuads; ++i) {
      const int quad = i * Tile::kTeam + in_team;
      uint32_t word = 0;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int whole = __float2int_rn(__fmul_rn(product[h][i][e], inverse));
        word |= (static_cast<uint32_t>(whole) & 0xffu) << (8 * e);
      }
      if (quad < Tile::kQuads) weights[h * Tile::kQuads + quad] = word;
    }
  }
  return {scale2 * __fdiv_rn(largest, 127.0f), scale2 * middle};
}

// sums[h][u] = weights . levels of the lane's tokens.
template <int D, int P>
__device__ void multiply_levels(const Held<D, P>& held, const uint32_t* weights,
                                int (&sums)[kHeads][Tiling<D, P>::kTokens]) {
  using Tile = Tiling<D, P>;
#pragma unroll
  for (int group = 0; group < Tile::kGroups; ++group) {
#pragma unroll
    for (int u = 0; u < Tile::kTokens; ++u) {
      const uint32_t word = held.levels[group][u];
      int levels[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) levels[i] = static_cast<int>(word >> (2 * i) & 0x03030303u);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const uint4 four = *reinterpret_cast<const uint4*>(weights + h * Tile::kQuads + 4 * group);
        sums[h][u] = __dp4a(levels[0], static_cast<int>(four.x), sums[h][u]);
        sums[h][u] = __dp4a(levels[1], static_cast<int>(four.y), sums[h][u]);
        sums[h][u] = __dp4a(levels[2], static_cast<int>(four.z), sums[h][u]);
        sums[h][u] = __dp4a(levels[3], static_cast<int>(four.w), sums[h][u]);
      }
    }
  }
}

// ln sum exp over the page's tokens, of the lane's head.
template <int D, int P>
__device__ float log_mass(const int (&sums)[kHeads][Tiling<D, P>::kTokens],
                          const Weighed& weighed) {
  using Tile = Tiling<D, P>;
  float exponent[kHeads][Tile::kTokens], most[kHeads], mass[kHeads] = {};
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float factor = __shfl_sync(kAllOfWarp, weighed.factor, h * Tile::kSharers, Tile::kTeam);
    const float offset = __shfl_sync(kAllOfWarp, weighed.offset, h * Tile::kSharers, Tile::kTeam);
    most[h] = -INFINITY;
#pragma unroll
    for (int u = 0; u < Tile::kTokens; ++u) {
      exponent[h][u] = fmaf(static_cast<float>(sums[h][u]), factor, offset);
      most[h] = fmaxf(most[h], exponent[h][u]);
    }
  }
  const float highest = over_team<Tile::kTeam>(most, Largest{});
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float top = __shfl_sync(kAllOfWarp, highest, h * Tile::kSharers, Tile::kTeam);
#pragma unroll
    for (int u = 0; u < Tile::kTokens; ++u) mass[h] += exp2f(exponent[h][u] - top);
  }
  return kLn2 * (highest + log2f(over_team<Tile::kTeam>(mass, Sum{})));
}

// Scores of the team's page for all heads, to scores[G][kScoreSplit] at `page`.
template <typename T, int D, int P>
__device__ void score_page(const Held<D, P>& held, const float* q, int group, float scale2,
                           uint32_t* weights, int page, float* scores) {
  using Tile = Tiling<D, P>;
  const int in_team = threadIdx.x % Tile::kTeam;
  for (int g = 0; g < group; g += kHeads) {
    const Weighed weighed = weigh_page<T, D, P>(held, q + g * D, group - g, scale2, weights);
    __syncwarp();
    int sums[kHeads][Tile::kTokens] = {};
    multiply_levels<D, P>(held, weights, sums);
    const float score = log_mass<D, P>(sums, weighed);
    const int head = g + in_team / Tile::kSharers;
    if (in_team % Tile::kSharers == 0 && head < group) scores[head * kScoreSplit + page] = score;
    __syncwarp();  // the weights have been read
  }
}

// One CTA per row (y) and split of its candidates (x).
template <typename T, int D, int P>
__global__ void __launch_bounds__(Tiling<D, P>::kThreads)
    score_key2_kernel(const __grid_constant__ SelectParams params) {
  using Tile = Tiling<D, P>;
  const auto row = static_cast<int>(blockIdx.y);
  let_next_start();
  const int b = row / params.kv.kv_heads, head = row % params.kv.kv_heads;
  const int32_t n = row_candidates(params, b);
  const SequenceLayer layer = params.batch.layer(b, params.layer);
  wait_for_previous();
  if (params.mode[row] != params.which) return;
  const int first = static_cast<int>(blockIdx.x) * kScoreSplit;
  if (!needs_scores(params, n) || first >= n) return;

  const int pages = min(n - first, kScoreSplit);
  const int group = params.kv.group;
  const int64_t page = int64_t{head} * layer.max_pages + params.map.sink + first;
  const auto* sketches = static_cast<const unsigned char*>(layer.sketch) + page * Tile::kPageBytes;

  extern __shared__ uint4 score_key2_memory[];
  auto* q = reinterpret_cast<float*>(score_key2_memory);  // [G][D]
  float* scores = q + group * D;                          // [G][kScoreSplit]
  const int warp = threadIdx.x / 32, team = threadIdx.x / Tile::kTeam;
  uint32_t* weights =
      reinterpret_cast<uint32_t*>(scores + group * kScoreSplit) + team * kHeads * Tile::kQuads;
  const int in_warp = threadIdx.x % 32 / Tile::kTeam;
  int at = warp * Tile::kTeams;  // of the warp's first page
  Held<D, P> held = load_page<D, P>(sketches, at + in_warp, pages);
  for (int i = threadIdx.x; i < group * D; i += Tile::kThreads) {
    q[i] = params.q[int64_t{row} * group * D + i];
  }
  __syncthreads();
  while (at < pages) {  // the next page is on its way while this one is scored
    const int next = at + Tile::kRound;
    const Held<D, P> following = load_page<D, P>(sketches, next + in_warp, pages);
    score_page<T, D, P>(held, q, group, params.query_scale * kLog2E, weights, at + in_warp, scores);
    held = following;
    at = next;
  }
  __syncthreads();
  write_scores<Tile::kThreads>(params, row, first, pages, scores);
}

template <typename T, int D, int P>
void launch(const SelectParams& params, dim3 grid, cudaStream_t stream) {
  const size_t shared = shared_words<D, P>(params.kv.group) * sizeof(uint32_t);
  launch_early(score_key2_kernel<T, D, P>, grid, Tiling<D, P>::kThreads, shared, stream, params);
}

template <typename T, int D>
void launch_for_page(const SelectParams& params, dim3 grid, cudaStream_t stream) {
  switch (params.kv.page) {
    case 16:
      return launch<T, D, 16>(params, grid, stream);
    case 32:
      return launch<T, D, 32>(params, grid, stream);
    case 64:
      return launch<T, D, 64>(params, grid, stream);
    default:
      check_argument(false, "page is {}, must be 16, 32 or 64", params.kv.page);
  }
}

}  // namespace

void score_key2_pages(const SelectParams& params, dim3 grid, cudaStream_t stream) {
  with_head_dim(params.kv.head_dim, [&](auto dim) {
    if (params.kv.type == KvType::kBF16) {
      launch_for_page<__nv_bfloat16, dim()>(params, grid, stream);
    } else {
      launch_for_page<__half, dim()>(params, grid, stream);
    }
  });
  check_cuda(cudaGetLastError(), "score_pages");
}

}  // namespace freekv::cuda
