// Scores of box sketches: queries against hi and lo of pages (Quest, section 3.2). Device code.
#pragma once

#include "backends/cuda/score_rows.cuh"
#include "backends/cuda/selection_scratch.hpp"
#include "backends/cuda/sketch_values.cuh"

namespace freekv::cuda {

/// A split of candidates is scored by so many threads, numbered from 0.
inline constexpr int kScoreWarps = 8;
inline constexpr int kScoreThreads = 32 * kScoreWarps;

// How a warp reads sketches of head dimension D: hi and lo of a page are one run of 2 * D values.
template <int D>
struct Tiling {
  static constexpr int kChunks = 2 * D / 8;              // of 16 bytes, per page
  static constexpr int kTeam = kChunks <= 16 ? 16 : 32;  // lanes that share a page
  static constexpr int kTeams = 32 / kTeam;
  static constexpr int kPieces = (kChunks + kTeam - 1) / kTeam;  // chunks per lane
  static constexpr int kPages = kTeams * kPieces > 1 ? 4 : 8;    // of a team, in flight at once
  static constexpr int kWarpPages = kTeams * kPages;
  static constexpr int kRound = kScoreWarps * kWarpPages;  // pages of the CTA in flight
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
__device__ Held<D> load_sketches(const uint4* sketches, int round, int pages, int thread) {
  using Tile = Tiling<D>;
  const int lane = thread % 32, warp = thread / 32;
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

// By the whole CTA.
template <int D>
__device__ void split_query(const float* q, int group, float* factors) {
  for (int i = threadIdx.x; i < group * D; i += static_cast<int>(blockDim.x)) {
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
                           float* scores, int thread) {
  using Tile = Tiling<D>;
  const int lane = thread % 32, warp = thread / 32;
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

}  // namespace freekv::cuda
