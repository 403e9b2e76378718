// score_pages() of selection.hpp: queries against minmax sketches; key2's are in score_key2.cu.
#include <cmath>
#include <type_traits>

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/score_rows.cuh"
#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"
#include "backends/cuda/sketch_values.cuh"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kMaxGroup = 16;

// How a warp reads sketches of head dimension D: hi and lo of a page are one run of 2 * D values.
template <int D>
struct Tiling {
  static constexpr int kChunks = 2 * D / 8;              // of 16 bytes, per page
  static constexpr int kTeam = kChunks <= 16 ? 16 : 32;  // lanes that share a page
  static constexpr int kTeams = 32 / kTeam;
  static constexpr int kPieces = (kChunks + kTeam - 1) / kTeam;  // chunks per lane
  static constexpr int kPages = kTeams * kPieces > 1 ? 4 : 8;    // of a team, in flight at once
  static constexpr int kWarpPages = kTeams * kPages;
  static constexpr int kRound = kWarps * kWarpPages;  // pages of the CTA in flight
  static_assert(kScoreSplit % kRound == 0);
};

// A lane's part of its team's pages.
template <int D>
struct Held {
  uint4 raw[Tiling<D>::kPages][Tiling<D>::kPieces];
};

// Place of a page, counted within the split, of a warp's team.
template <int D>
__device__ int page_at(int round, int warp, int team, int i) {
  return round + warp * Tiling<D>::kWarpPages + i * Tiling<D>::kTeams + team;
}

/// `sketches`: of the split's first page. Pages from `pages` on are not read and count as zeros.
template <int D>
__device__ Held<D> load_sketches(const uint4* sketches, int round, int pages) {
  using Tile = Tiling<D>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Held<D> held;
#pragma unroll
  for (int i = 0; i < Tile::kPages; ++i) {
    const int page = page_at<D>(round, warp, lane / Tile::kTeam, i);
#pragma unroll
    for (int piece = 0; piece < Tile::kPieces; ++piece) {
      const int chunk = piece * Tile::kTeam + lane % Tile::kTeam;
      const bool exists = page < pages && chunk < Tile::kChunks;
      held.raw[i][piece] =
          exists ? __ldcs(sketches + int64_t{page} * Tile::kChunks + chunk) : uint4{0, 0, 0, 0};
    }
  }
  return held;
}

// The query's factors of hi and lo in the order of a sketch: [G][half][kChunks][4], where a chunk's
// eight factors are two halves, so that a team's 16-byte reads do not meet in a bank.
template <int D>
__device__ int factor_at(int g, int half, int chunk) {
  return ((g * 2 + half) * Tiling<D>::kChunks + chunk) * 4;
}

template <int D>
__device__ void split_query(const float* q, int group, float* factors) {
  for (int i = threadIdx.x; i < group * D; i += kThreads) {
    const int g = i / D, e = i % D;
    const float x = q[i];
    // Written so that a NaN stays one on both sides.
    const float up = x < 0 ? 0.0f : x, down = x > 0 ? 0.0f : x;
    const int within = e % 4, half = e % 8 / 4;
    factors[factor_at<D>(g, half, e / 8) + within] = up;
    factors[factor_at<D>(g, half, (D + e) / 8) + within] = down;
  }
}

// Scores of a warp's pages for all heads, to scores[G][kScoreSplit].
template <typename T, int D>
__device__ void score_held(const Held<D>& held, const float* factors, int group, int round,
                           float* scores) {
  using Tile = Tiling<D>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int in_team = lane % Tile::kTeam;
  float values[Tile::kPages][Tile::kPieces][8];
#pragma unroll
  for (int i = 0; i < Tile::kPages; ++i) {
#pragma unroll
    for (int piece = 0; piece < Tile::kPieces; ++piece) {
      unpack<T>(held.raw[i][piece], values[i][piece]);
    }
  }
  for (int g = 0; g < group; ++g) {
    float sums[Tile::kPages] = {};
#pragma unroll
    for (int piece = 0; piece < Tile::kPieces; ++piece) {
      const int chunk = piece * Tile::kTeam + in_team;
      float4 half[2] = {};
      if (chunk < Tile::kChunks) {
        half[0] = *reinterpret_cast<const float4*>(factors + factor_at<D>(g, 0, chunk));
        half[1] = *reinterpret_cast<const float4*>(factors + factor_at<D>(g, 1, chunk));
      }
      const float x[8] = {half[0].x, half[0].y, half[0].z, half[0].w,
                          half[1].x, half[1].y, half[1].z, half[1].w};
#pragma unroll
      for (int i = 0; i < Tile::kPages; ++i) {
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[i] = fmaf(x[e], values[i][piece][e], sums[i]);
      }
    }
    const float score = over_team<Tile::kTeam>(sums, Sum{});
    constexpr int kSharers = Tile::kTeam / Tile::kPages;  // lanes that hold the same sum
    if (in_team % kSharers == 0) {
      const int page = page_at<D>(round, warp, lane / Tile::kTeam, in_team / kSharers);
      scores[g * kScoreSplit + page] = score;
    }
  }
}

// One CTA per row (y) and split of its candidates (x).
template <typename T, int D>
__global__ void __launch_bounds__(kThreads, 2)
    score_kernel(const __grid_constant__ SelectParams params) {
  using Tile = Tiling<D>;
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
  const uint4* sketches = static_cast<const uint4*>(layer.sketch) + page * Tile::kChunks;

  extern __shared__ float4 score_memory[];
  auto* factors = reinterpret_cast<float*>(score_memory);  // [G][2 * D]
  float* scores = factors + group * 2 * D;                 // [G][kScoreSplit]
  Held<D> held = load_sketches<D>(sketches, 0, pages);     // on its way while q is prepared
  split_query<D>(params.q + int64_t{row} * group * D, group, factors);
  __syncthreads();
  for (int round = 0; round < kScoreSplit; round += Tile::kRound) {
    if (round > 0) held = load_sketches<D>(sketches, round, pages);
    score_held<T, D>(held, factors, group, round, scores);
  }
  __syncthreads();
  write_scores<kThreads>(params, row, first, pages, scores);
}

}  // namespace

size_t select_scratch(const KvGeometry& kv, int32_t n, int32_t max_candidates,
                      int32_t common_pages) {
  const auto rows = static_cast<size_t>(n) * static_cast<size_t>(kv.kv_heads);
  const auto group = static_cast<size_t>(kv.group);
  const auto stride = static_cast<size_t>(SelectionScratch::padded(max_candidates));
  const size_t parts = stride / kScoreSplit + static_cast<size_t>(common_pages);
  return rows * ((group + 1) * stride * sizeof(float) + group * parts * sizeof(SplitSoftmax));
}

void score_pages(const SelectParams& params, cudaStream_t stream) {
  const KvGeometry& kv = params.kv;
  check_argument(kv.group >= 1 && kv.group <= kMaxGroup, "the group is {}, must be 1 to {}",
                 kv.group, kMaxGroup);
  const int64_t rows = int64_t{params.batch.n} * kv.kv_heads;
  check_argument(rows <= 65535, "{} rows, at most {} fit a launch", rows, 65535);
  if (rows == 0 || params.max_candidates <= 0) return;
  if (!params.mass && params.max_candidates <= params.map.selected) return;
  const auto splits =
      static_cast<unsigned>((params.max_candidates + kScoreSplit - 1) / kScoreSplit);
  const dim3 grid(splits, static_cast<unsigned>(rows));
  if (params.sketch == SketchKind::kKey2) return score_key2_pages(params, grid, stream);
  with_head_dim(kv.head_dim, [&](auto dim) {
    constexpr int kDim = decltype(dim)::value;
    const size_t shared = static_cast<size_t>(kv.group) * (2 * kDim + kScoreSplit) * sizeof(float);
    if (kv.type == KvType::kBF16) {
      launch_early(score_kernel<__nv_bfloat16, kDim>, grid, kThreads, shared, stream, params);
    } else {
      launch_early(score_kernel<__half, kDim>, grid, kThreads, shared, stream, params);
    }
  });
  check_cuda(cudaGetLastError(), "score_pages");
}

}  // namespace freekv::cuda
