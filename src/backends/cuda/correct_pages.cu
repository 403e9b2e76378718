// A cluster of CTAs per row. All of them score their share of the candidates, pool and choose among
// them, tell each other what they found, and copy.
#include "backends/cuda/correction.hpp"

#include <cooperative_groups.h>

#include "backends/cuda/choose_in_cluster.cuh"
#include "backends/cuda/head_page.hpp"
#include "backends/cuda/host_loads.cuh"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/pooling.cuh"
#include "backends/cuda/score_minmax.cuh"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kMaxGroup = 16;
constexpr int kTeams = 2;  // of threads, each of which scores a split
constexpr int kThreads = kTeams * kScoreThreads;
/// Beside a CTA of attention that starts early (96 KiB).
constexpr size_t kMaxShared = size_t{128} << 10;

/// Dynamic shared memory of a CTA, in bytes from its beginning.
struct Layout {
  ShareLayout share;
  int most_splits = 0;   // of a row
  size_t factors = 0;    // [G][2 * d]
  size_t scores = 0;     // [splits of a share][G][kScoreSplit]
  size_t softmaxes = 0;  // [G][most_splits]
  size_t bytes = 0;
};

bool scores_apart(const SelectParams& params) {
  return params.sketch != SketchKind::kMinMax || params.max_candidates >= kManyCandidates;
}

Layout layout_of(const SelectParams& params) {
  const auto group = static_cast<size_t>(params.kv.group);
  Layout layout;
  layout.share = share_layout(params);
  layout.most_splits =
      static_cast<int>(SelectionScratch::padded(params.max_candidates) / kScoreSplit);
  ShareLayout all = layout.share;
  if (!scores_apart(params)) {
    layout.factors = all.place(group * 2 * static_cast<size_t>(params.kv.head_dim) * sizeof(float));
    layout.scores = all.place(group * static_cast<size_t>(all.candidates) * sizeof(float));
    layout.softmaxes =
        all.place(static_cast<size_t>(layout.most_splits) * group * sizeof(SplitSoftmax));
  }
  layout.bytes = all.bytes;
  return layout;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
namespace cg = cooperative_groups;

constexpr int kWarps = kThreads / 32;

template <typename V>
__device__ V* at(unsigned char* memory, size_t offset) {
  return reinterpret_cast<V*>(memory + offset);
}

/// Scores a share's candidates, and tells all CTAs the softmax of each split.
template <typename T, int D>
__device__ void score(const SelectParams& params, const Layout& layout, const Row& row,
                      const ClusterShare& share, unsigned char* memory) {
  const int group = params.kv.group;
  const int team = static_cast<int>(threadIdx.x) / kScoreThreads;
  const int thread = static_cast<int>(threadIdx.x) % kScoreThreads;
  auto* factors = at<float>(memory, layout.factors);
  auto* scores = at<float>(memory, layout.scores);
  const auto pages_of = [&](int split) {  // none of one that does not exist
    return min(share.candidates() - split * kScoreSplit, kScoreSplit);
  };
  const auto sketches = [&](int split, int round) {
    const int64_t page = int64_t{row.head} * row.layer.max_pages + params.map.sink + share.first() +
                         int64_t{split} * kScoreSplit;
    return load_sketches<D>(static_cast<const uint4*>(row.layer.sketch) + page * Tiling<D>::kChunks,
                            round, pages_of(split), thread);
  };
  const int splits = (share.candidates() + kScoreSplit - 1) / kScoreSplit;
  Held<D> held = sketches(team, 0);  // on its way while q is prepared
  split_query<D>(params.q + int64_t{row.at} * group * D, group, factors);
  __syncthreads();
  for (int split = team, round = 0; split < splits;) {
    int next_split = split, next_round = round + Tiling<D>::kRound;
    if (next_round == kScoreSplit) {
      next_split += kTeams;
      next_round = 0;
    }
    const Held<D> next = sketches(next_split, next_round);  // behind the sums
    score_held<T, D>(held, factors, group, round, scores + split * group * kScoreSplit, thread);
    held = next;
    split = next_split;
    round = next_round;
  }
  __syncthreads();
  if (!has_softmax(params.pooling)) return;
  const int first = share.first() / kScoreSplit;
  for (int i = static_cast<int>(threadIdx.x) / 32; i < splits * group; i += kWarps) {
    const int split = i / group, g = i % group, lane = static_cast<int>(threadIdx.x) % 32;
    const SplitSoftmax softmax =
        split_softmax(scores + i * kScoreSplit, pages_of(split), params.scale);
    auto* all = at<SplitSoftmax>(memory, layout.softmaxes);
    if (lane < kCluster) of_cta(all, lane)[g * layout.most_splits + first + split] = softmax;
  }
}

/// Where the scores of a share stand: head g's of split s from scores + s * split + g * head on;
/// and the softmaxes of all splits, head g's from softmaxes + g * softmax on.
struct Scores {
  const float* scores;
  int64_t split;
  int64_t head;
  const SplitSoftmax* softmaxes;
  int64_t softmax;
};

/// Ends with a barrier.
__device__ void pool(const SelectParams& params, const Row& row, const ClusterShare& share,
                     const Scores& from, HeadSoftmax* softmax) {
  const int group = params.kv.group;
  const float factor = params.scale * kLog2E;
  if (has_softmax(params.pooling)) {
    const int splits = (row.n + kScoreSplit - 1) / kScoreSplit;
    for (int g = static_cast<int>(threadIdx.x) / 32; g < group; g += kWarps) {
      const HeadSoftmax joined = join_splits(from.softmaxes + g * from.softmax, splits, factor);
      if (threadIdx.x % 32 == 0) softmax[g] = joined;
    }
    __syncthreads();
  }
  with_pooling(params.pooling, [&](auto rule) {
    for (int i = 4 * static_cast<int>(threadIdx.x); i < share.candidates(); i += 4 * kThreads) {
      const float* scores = from.scores + i / kScoreSplit * from.split + i % kScoreSplit;
      *reinterpret_cast<float4*>(share.values() + i) =
          pool_four<decltype(rule)::value>(scores, from.head, group, softmax, factor);
    }
  });
  __syncthreads();
}

/// Brings `count` pages, which are shared out among the CTAs.
template <int D>
__device__ void copy(const SelectParams& params, const Row& row, const ClusterShare& share,
                     int count) {
  const int units = 2 * params.kv.page * kRowUnits<D>;
  const int parts = parts_of_head_page(units), lane = static_cast<int>(threadIdx.x) % 32;
  const auto rank = static_cast<int>(cg::this_cluster().block_rank());
  // Neighbours in different CTAs, whose loads do not queue behind one another.
  for (int i = static_cast<int>(threadIdx.x) / 32 * kCluster + rank; i < count * parts;
       i += kWarps * kCluster) {
    copy_part<D>(head_page_copy(params.kv, params.map, row.layer, row.head, share.move(i / parts)),
                 i % parts * kPartUnits + lane, units, params.kv.kv_heads);
  }
}
#endif

// kApart: score_pages() has scored. Then few registers do, and a CTA finds room beside one of the
// product in front.
template <typename T, int D, bool kApart>
__global__ void __launch_bounds__(kThreads, kApart ? 2 : 1)
    correct_kernel(const __grid_constant__ SelectParams params,
                   const __grid_constant__ Layout layout) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ uint4 correct_memory[];
  __shared__ ShareShared shared;
  __shared__ HeadSoftmax softmax[kMaxGroup];
  let_next_start();
  auto* memory = reinterpret_cast<unsigned char*>(correct_memory);
  const cg::cluster_group cluster = cg::this_cluster();
  const Row row = read_row(params, static_cast<int>(blockIdx.x / kCluster));
  const ClusterShare share(params, row, layout.share, memory, shared);
  share.read_tables();
  cluster.sync();
  wait_for_previous();
  if (params.mode[row.at] != params.which) return;  // the same in all CTAs of the cluster

  const bool counts = params.corrections != nullptr && threadIdx.x == 0;
  if (counts) atomicAdd(params.corrections, 1);
  if (row.n > row.k) {
    if constexpr (kApart) {
      const SelectionScratch scratch(params);
      pool(params, row, share,
           {scratch.row_scores(row.at, 0) + share.first(), kScoreSplit, scratch.stride,
            scratch.row_splits(row.at, 0), scratch.stride / kScoreSplit},
           softmax);
    } else {
      score<T, D>(params, layout, row, share, memory);
      cluster.sync();
      pool(params, row, share,
           {at<float>(memory, layout.scores), params.kv.group * kScoreSplit, kScoreSplit,
            at<SplitSoftmax>(memory, layout.softmaxes), layout.most_splits},
           softmax);
    }
  }
  const Chosen chosen = share.choose();
  copy<D>(params, row, share, chosen.moves);
  if (cluster.block_rank() == 0) share.finish(chosen);
  if (params.corrections == nullptr) return;
  __syncthreads();
  if (counts) atomicSub(params.corrections, 1);
#else
  __trap();  // can_correct_pages() is false here
#endif
}

template <bool kApart, typename Launch>
void with_kernel_for(const KvGeometry& kv, Launch&& launch) {
  with_head_dim(kv.head_dim, [&](auto dim) {
    if (kv.type == KvType::kBF16) {
      launch(correct_kernel<__nv_bfloat16, dim.value, kApart>);
    } else {
      launch(correct_kernel<__half, dim.value, kApart>);
    }
  });
}

template <typename Launch>
void with_kernel(const SelectParams& params, Launch&& launch) {
  if (scores_apart(params)) return with_kernel_for<true>(params.kv, launch);
  with_kernel_for<false>(params.kv, launch);
}

}  // namespace

bool can_correct_pages(const SelectParams& params) {
  if (params.mass || params.map.resident > kMostShareSlots) return false;
  if (layout_of(params).bytes > kMaxShared) return false;
  bool can = false;
  with_kernel(params, [&](auto* kernel) {
    cudaFuncAttributes attributes{};
    check_cuda(cudaFuncGetAttributes(&attributes, kernel), "correct_pages");
    can = attributes.ptxVersion >= 90;
  });
  return can;
}

void correct_pages(const SelectParams& params, cudaStream_t stream) {
  check_head_pages(params.kv, params.map);
  check_argument(params.kv.group >= 1 && params.kv.group <= kMaxGroup,
                 "the group is {}, must be 1 to {}", params.kv.group, kMaxGroup);
  check_argument(params.map.selected >= 1 && params.map.resident >= params.map.selected,
                 "{} pages are selected and {} resident, must be one and as many at least",
                 params.map.selected, params.map.resident);
  const int64_t rows = int64_t{params.batch.n} * params.kv.kv_heads;
  if (rows == 0) return;
  const Layout layout = layout_of(params);
  check_argument(layout.bytes <= kMaxShared, "{} bytes of shared memory, must be at most {}",
                 layout.bytes, kMaxShared);
  if (scores_apart(params)) score_pages(params, stream);
  with_kernel(params, [&](auto* kernel) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(kMaxShared)),
               "correct_pages: shared memory");
    launch_early_in_clusters(kernel, static_cast<unsigned>(rows) * kCluster, kThreads, kCluster,
                             layout.bytes, stream, params, layout);
  });
}

}  // namespace freekv::cuda
