// score_pages() of selection.hpp: queries against minmax sketches; key2's are in score_key2.cu.
#include <algorithm>

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/score_minmax.cuh"
#include "backends/cuda/score_rows.cuh"
#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kMaxGroup = 16;

// CTAs per row (y), each of which scores every gridDim.x-th split of its candidates: the sketches
// of the next are on their way meanwhile.
template <typename T, int D>
__global__ void __launch_bounds__(kScoreThreads, 2)
    score_kernel(const __grid_constant__ SelectParams params) {
  using Tile = Tiling<D>;
  const auto row = static_cast<int>(blockIdx.y);
  let_next_start();
  const int b = row / params.kv.kv_heads, head = row % params.kv.kv_heads;
  const int32_t n = row_candidates(params, b);
  const SequenceLayer layer = params.batch.layer(b, params.layer);
  wait_for_previous();
  if (params.mode[row] != params.which) return;
  const int splits = (n + kScoreSplit - 1) / kScoreSplit, step = static_cast<int>(gridDim.x);
  int split = static_cast<int>(blockIdx.x);
  if (!needs_scores(params, n) || split >= splits) return;

  const int thread = static_cast<int>(threadIdx.x), group = params.kv.group;
  const auto pages_of = [&](int at) {  // none of a split that does not exist
    return min(n - at * kScoreSplit, kScoreSplit);
  };
  const auto sketches = [&](int at, int round) {
    const int64_t page =
        int64_t{head} * layer.max_pages + params.map.sink + int64_t{at} * kScoreSplit;
    return load_sketches<D>(static_cast<const uint4*>(layer.sketch) + page * Tile::kChunks, round,
                            pages_of(at), thread);
  };
  extern __shared__ float4 score_memory[];
  auto* factors = reinterpret_cast<float*>(score_memory);  // [G][2 * D]
  float* scores = factors + group * 2 * D;                 // [2][G][kScoreSplit], taken in turn
  Held<D> held = sketches(split, 0);                       // on its way while q is prepared
  split_query<D>(params.q + int64_t{row} * group * D, group, factors);
  __syncthreads();
  for (int turn = 0; split < splits; split += step, turn ^= 1) {
    float* of_split = scores + turn * group * kScoreSplit;
    for (int round = 0; round < kScoreSplit; round += Tile::kRound) {
      const bool ends = round + Tile::kRound == kScoreSplit;
      const Held<D> next = sketches(ends ? split + step : split, ends ? 0 : round + Tile::kRound);
      score_held<T, D>(held, factors, group, round, of_split, thread);
      held = next;
    }
    __syncthreads();
    write_scores<kScoreThreads>(params, row, split * kScoreSplit, pages_of(split), of_split);
  }
}

/// CTAs of a row, of which `rows` are scored at once. One per SM in all leaves room for the
/// products beside it; before attention few rows are scored, and nothing else runs.
constexpr unsigned kMostBeforeAttention = 64;
unsigned score_ctas(const SelectParams& params, int64_t rows, unsigned splits) {
  const auto sms = static_cast<unsigned>(multiprocessors());
  const auto share = static_cast<unsigned>((sms + rows - 1) / rows);
  return std::min(splits, params.ahead != 0 ? share : kMostBeforeAttention);
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
    const dim3 ctas(score_ctas(params, rows, splits), grid.y);
    const size_t shared = static_cast<size_t>(kv.group) * 2 * (kDim + kScoreSplit) * sizeof(float);
    if (kv.type == KvType::kBF16) {
      launch_early(score_kernel<__nv_bfloat16, kDim>, ctas, kScoreThreads, shared, stream, params);
    } else {
      launch_early(score_kernel<__half, kDim>, ctas, kScoreThreads, shared, stream, params);
    }
  });
  check_cuda(cudaGetLastError(), "score_pages");
}

}  // namespace freekv::cuda
