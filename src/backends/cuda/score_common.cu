// score_common_pages() of selection.hpp: the attention mass of sink and window from their keys, as
// decode attention will see it, a warp per page.
#include "backends/cuda/head_page.hpp"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/score_rows.cuh"
#include "backends/cuda/selection.hpp"
#include "backends/cuda/sketch_values.cuh"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kMaxGroup = 16;
constexpr int kTokens = 8;  // that a team of lanes takes at once, each lane eight channels

template <int D>
struct Tiling {
  static constexpr int kChunks = D / kUnitValues;
  static constexpr int kTeam = kChunks <= 16 ? 16 : 32;
  static constexpr int kTeams = 32 / kTeam;
  static constexpr int kSharers = kTeam / kTokens;  // lanes that over_team() gives the same token
};

// Keys of one page and head in the fast tier.
struct PageKeys {
  const uint4* first = nullptr;
  int64_t stride = 0;  // to the next token, in units
  int count = 0;       // tokens that there are
};

template <typename T, int D>
__device__ void load_keys(const PageKeys& keys, int token, int chunk,
                          float (&to)[kTokens][kUnitValues]) {
  uint4 raw[kTokens];
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    const bool exists = token + i < keys.count && chunk < Tiling<D>::kChunks;
    raw[i] = exists ? keys.first[(token + i) * keys.stride + chunk] : uint4{0, 0, 0, 0};
  }
#pragma unroll
  for (int i = 0; i < kTokens; ++i) unpack<T>(raw[i], to[i]);
}

// scale * q.k of a page's tokens for all heads, to logits[G][page]; past the last token they mean
// nothing.
template <typename T, int D>
__device__ void multiply_keys(const PageKeys& keys, const float* q, int group, int page,
                              float scale, float* logits) {
  using Tile = Tiling<D>;
  const int lane = threadIdx.x % 32;
  const int in_team = lane % Tile::kTeam;
  const bool has_channels = in_team < Tile::kChunks;
  for (int first = 0; first < page; first += Tile::kTeams * kTokens) {
    const int token = first + lane / Tile::kTeam * kTokens;
    float key[kTokens][kUnitValues];
    load_keys<T, D>(keys, token, in_team, key);
    for (int g = 0; g < group; ++g) {
      float sums[kTokens] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float4 x = {};
        if (has_channels) {
          x = *reinterpret_cast<const float4*>(q + g * D + in_team * kUnitValues + 4 * half);
        }
#pragma unroll
        for (int i = 0; i < kTokens; ++i) {
          const float* k = key[i] + 4 * half;
          sums[i] = fmaf(x.x, k[0], sums[i]);
          sums[i] = fmaf(x.y, k[1], sums[i]);
          sums[i] = fmaf(x.z, k[2], sums[i]);
          sums[i] = fmaf(x.w, k[3], sums[i]);
        }
      }
      const float dot = over_team<Tile::kTeam>(sums, Sum{});
      if (in_team % Tile::kSharers == 0) {
        logits[g * page + token + in_team / Tile::kSharers] = scale * dot;
      }
    }
  }
}

// One CTA per row (y) and kWarps of its pages (x).
template <typename T, int D>
__global__ void __launch_bounds__(kThreads)
    score_common_kernel(const __grid_constant__ SelectParams params) {
  const auto row = static_cast<int>(blockIdx.y);
  let_next_start();
  const KvGeometry& kv = params.kv;
  const int b = row / kv.kv_heads, head = row % kv.kv_heads;
  const int64_t tokens = params.batch.length(b);
  const SequenceLayer layer = params.batch.layer(b, params.layer);
  wait_for_previous();
  if (params.mode[row] != params.which) return;

  extern __shared__ float4 score_common_memory[];
  auto* q = reinterpret_cast<float*>(score_common_memory);  // [G][D], then [kWarps][G][page]
  const int warp = threadIdx.x / 32;
  float* logits = q + kv.group * D + warp * kv.group * kv.page;
  for (int i = threadIdx.x; i < kv.group * D; i += kThreads) {
    q[i] = params.q[int64_t{row} * kv.group * D + i];
  }
  __syncthreads();
  const int i = static_cast<int>(blockIdx.x) * kWarps + warp;
  if (i >= params.map.common_count(tokens)) return;

  const int32_t page = params.map.common_page(tokens, i);
  const int32_t slot = layer.budgeted ? params.map.common_slot(page) : page;
  const int64_t in_page = tokens - int64_t{page} * kv.page;
  const PageKeys keys{unit_at(static_cast<const void*>(layer.fast), kv.fast_key(slot, 0, head)),
                      kv.fast_token_stride() / kUnitValues,
                      static_cast<int>(in_page < kv.page ? in_page : kv.page)};
  multiply_keys<T, D>(keys, q, kv.group, kv.page, params.query_scale, logits);
  __syncwarp();
  const SelectionScratch scratch(params);
  for (int g = 0; g < kv.group; ++g) {
    const SplitSoftmax softmax = split_softmax(logits + g * kv.page, keys.count, 1.0f);
    if (threadIdx.x % 32 == 0) scratch.row_common(row, g)[i] = softmax;
  }
}

}  // namespace

void score_common_pages(const SelectParams& params, cudaStream_t stream) {
  const KvGeometry& kv = params.kv;
  check_head_pages(kv, params.map);
  check_argument(kv.group >= 1 && kv.group <= kMaxGroup, "the group is {}, must be 1 to {}",
                 kv.group, kMaxGroup);
  const int64_t rows = int64_t{params.batch.n} * kv.kv_heads;
  check_argument(rows <= 65535, "{} rows, at most {} fit a launch", rows, 65535);
  const int32_t pages = params.map.sink + params.map.ring();
  if (rows == 0) return;
  const dim3 grid(static_cast<unsigned>((pages + kWarps - 1) / kWarps),
                  static_cast<unsigned>(rows));
  with_head_dim(kv.head_dim, [&](auto dim) {
    const size_t floats = static_cast<size_t>(kv.group) * (dim() + kWarps * kv.page);
    const size_t shared = floats * sizeof(float);
    if (kv.type == KvType::kBF16) {
      launch_early(score_common_kernel<__nv_bfloat16, dim()>, grid, kThreads, shared, stream,
                   params);
    } else {
      launch_early(score_common_kernel<__half, dim()>, grid, kThreads, shared, stream, params);
    }
  });
  check_cuda(cudaGetLastError(), "score_common_pages");
}

}  // namespace freekv::cuda
