// A cluster of CTAs per row. All of them score their splits of the candidates and pool what they
// scored; the first, which gets the pooled values, chooses pages and slots; all copy.
#include "backends/cuda/correction.hpp"

#include <cooperative_groups.h>

#include "backends/cuda/choose_row.cuh"
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
// CTAs: what every GPU that has clusters allows. Sixteen need most of a GPC's SMs at once: one
// other CTA there keeps all of them waiting, and a GPU has room for seven of such clusters.
constexpr int kCluster = 8;
constexpr int kTeams = 2;  // of threads, each of which scores a split
constexpr int kThreads = kTeams * kScoreThreads;
/// Beside a CTA of attention that starts early (96 KiB).
constexpr size_t kMaxShared = size_t{128} << 10;

/// Shared memory of a CTA, in bytes: what the first uses, then what all do. All multiples of 16.
struct Layout {
  RowShared row;
  int most_splits = 0;       // of a row
  int rounds = 0;            // a CTA scores kTeams splits in each
  size_t moves = 0;          // [k]
  size_t factors = 0;        // [G][2 * d]
  size_t scores = 0;         // [rounds][kTeams][G][kScoreSplit]
  size_t own_softmaxes = 0;  // [rounds][kTeams][G]
  size_t softmaxes = 0;      // [G][most_splits]
  size_t bytes = 0;
};

Layout layout_of(const SelectParams& params) {
  const auto group = static_cast<size_t>(params.kv.group);
  Layout layout;
  layout.row = row_shared(params, SIZE_MAX);
  layout.most_splits = layout.row.values / kScoreSplit;
  constexpr int kAtOnce = kCluster * kTeams;
  layout.rounds = (layout.most_splits + kAtOnce - 1) / kAtOnce;
  const auto splits = static_cast<size_t>(layout.rounds * kTeams) * group;
  const auto place = [&](size_t bytes) {
    const size_t at = layout.bytes;
    layout.bytes += (bytes + 15) / 16 * 16;
    return at;
  };
  place(layout.row.bytes);
  layout.moves = place(static_cast<size_t>(params.map.selected) * sizeof(Move));
  layout.factors = place(group * 2 * static_cast<size_t>(params.kv.head_dim) * sizeof(float));
  layout.scores = place(splits * kScoreSplit * sizeof(float));
  layout.own_softmaxes = place(splits * sizeof(SplitSoftmax));
  layout.softmaxes = place(static_cast<size_t>(layout.most_splits) * group * sizeof(SplitSoftmax));
  return layout;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
namespace cg = cooperative_groups;

constexpr int kWarps = kThreads / 32;

template <typename T, int D>
class Correction {
 public:
  __device__ Correction(const SelectParams& params, const Layout& layout, unsigned char* memory,
                        const Row& row)
      : params_(params),
        layout_(layout),
        memory_(memory),
        row_(row),
        cluster_(cg::this_cluster()),
        rank_(static_cast<int>(cluster_.block_rank())),
        group_(params.kv.group),
        splits_((row.n + kScoreSplit - 1) / kScoreSplit),
        factor_(params.scale * kLog2E) {}

  /// Scores and, of each split, the softmax, to this CTA's memory.
  __device__ void score() const {
    const int team = static_cast<int>(threadIdx.x) / kScoreThreads;
    const int thread = static_cast<int>(threadIdx.x) % kScoreThreads;
    auto* factors = at<float>(layout_.factors);
    Held<D> held = sketches(team, 0, thread);  // on its way while q is prepared
    split_query<D>(params_.q + int64_t{row_.at} * group_ * D, group_, factors);
    __syncthreads();
    for (int local = team, round = 0; split_at(local) < splits_;) {
      int next_local = local, next_round = round + Tiling<D>::kRound;
      if (next_round == kScoreSplit) {
        next_local += kTeams;
        next_round = 0;
      }
      const Held<D> next = sketches(next_local, next_round, thread);  // behind the sums
      score_held<T, D>(held, factors, group_, round, scores(local), thread);
      held = next;
      local = next_local;
      round = next_round;
    }
    __syncthreads();
    if (!has_softmax(params_.pooling)) return;
    for (int i = static_cast<int>(threadIdx.x) / 32; i < layout_.rounds * kTeams * group_;
         i += kWarps) {
      const int local = i / group_, split = split_at(local);
      if (split >= splits_) break;
      const SplitSoftmax softmax =
          split_softmax(scores(local) + i % group_ * kScoreSplit, pages_of(split), params_.scale);
      if (threadIdx.x % 32 == 0) at<SplitSoftmax>(layout_.own_softmaxes)[i] = softmax;
    }
  }

  /// After all have scored: the pooled values of this CTA's splits, to the first one's memory.
  __device__ void pool(HeadSoftmax* softmax) const {
    if (has_softmax(params_.pooling)) join(softmax);
    auto* values = cluster_.map_shared_rank(at<float>(0), 0);
    with_pooling(params_.pooling, [&](auto rule) {
      for (int i = 4 * static_cast<int>(threadIdx.x); i < layout_.rounds * kTeams * kScoreSplit;
           i += 4 * kThreads) {
        const int local = i / kScoreSplit, within = i % kScoreSplit;
        const int candidate = split_at(local) * kScoreSplit + within;
        if (candidate >= row_.n) continue;
        *reinterpret_cast<float4*>(values + candidate) = pool_four<decltype(rule)::value>(
            scores(local) + within, kScoreSplit, group_, softmax, factor_);
      }
    });
  }

  /// Brings `count` pages, whose list the first CTA has.
  __device__ void copy(int count) const {
    const int units = 2 * params_.kv.page * kRowUnits<D>;
    const int parts = parts_of_head_page(units), lane = static_cast<int>(threadIdx.x) % 32;
    const Move* moves = cluster_.map_shared_rank(at<Move>(layout_.moves), 0);
    // Neighbours in different CTAs, whose loads do not queue behind one another.
    for (int i = static_cast<int>(threadIdx.x) / 32 * kCluster + rank_; i < count * parts;
         i += kWarps * kCluster) {
      const Move move = moves[i / parts];
      copy_part<D>(head_page_copy(params_.kv, params_.map, row_.layer, row_.head, move),
                   i % parts * kPartUnits + lane, units, params_.kv.kv_heads);
    }
  }

 private:
  template <typename V>
  __device__ V* at(size_t offset) const {
    return reinterpret_cast<V*>(memory_ + offset);
  }
  // Split s is scored in round s / (ctas * kTeams); `local` counts this CTA's: round * kTeams +
  // team.
  __device__ int split_at(int local) const {
    return (local / kTeams * kCluster + rank_) * kTeams + local % kTeams;
  }
  __device__ const SplitSoftmax* softmaxes_of(int split) const {
    const int within = split % (kCluster * kTeams);
    const int local = split / (kCluster * kTeams) * kTeams + within % kTeams;
    const auto cta = static_cast<unsigned>(within / kTeams);
    return cluster_.map_shared_rank(at<SplitSoftmax>(layout_.own_softmaxes), cta) + local * group_;
  }
  __device__ float* scores(int local) const {
    return at<float>(layout_.scores) + local * group_ * kScoreSplit;
  }
  // None of a split that does not exist.
  __device__ int pages_of(int split) const {
    return min(row_.n - split * kScoreSplit, kScoreSplit);
  }

  __device__ Held<D> sketches(int local, int round, int thread) const {
    const int split = split_at(local);
    const int64_t page =
        int64_t{row_.head} * row_.layer.max_pages + params_.map.sink + int64_t{split} * kScoreSplit;
    return load_sketches<D>(
        static_cast<const uint4*>(row_.layer.sketch) + page * Tiling<D>::kChunks, round,
        pages_of(split), thread);
  }

  // Softmaxes of all splits, joined over the row.
  __device__ void join(HeadSoftmax* softmax) const {
    auto* all = at<SplitSoftmax>(layout_.softmaxes);
    for (int i = static_cast<int>(threadIdx.x); i < splits_ * group_; i += kThreads) {
      all[i % group_ * layout_.most_splits + i / group_] = softmaxes_of(i / group_)[i % group_];
    }
    __syncthreads();
    for (int g = static_cast<int>(threadIdx.x) / 32; g < group_; g += kWarps) {
      const HeadSoftmax joined = join_splits(all + g * layout_.most_splits, splits_, factor_);
      if (threadIdx.x % 32 == 0) softmax[g] = joined;
    }
    __syncthreads();
  }

  const SelectParams& params_;
  const Layout& layout_;
  unsigned char* memory_;
  const Row& row_;
  cg::cluster_group cluster_;
  int rank_;
  int group_;
  int splits_;  // of the row
  float factor_;
};
#endif

template <typename T, int D>
__global__ void __launch_bounds__(kThreads, 1)
    correct_kernel(const __grid_constant__ SelectParams params,
                   const __grid_constant__ Layout layout) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ uint4 correct_memory[];
  __shared__ SelectShared shared;
  __shared__ HeadSoftmax softmax[kMaxGroup];
  __shared__ int move_count;
  let_next_start();
  auto* memory = reinterpret_cast<unsigned char*>(correct_memory);
  const cg::cluster_group cluster = cg::this_cluster();
  const bool first = cluster.block_rank() == 0;
  const Row row = read_row(params, static_cast<int>(blockIdx.x / kCluster));
  const RowLists lists = row_lists(memory, layout.row, row.k, params.map.resident);
  if (first) {
    clear_histogram(shared);
    read_tables(params, row, layout.row, lists);
  }
  wait_for_previous();
  if (params.mode[row.at] != params.which) return;  // the same in all CTAs of the cluster

  const bool counts = params.corrections != nullptr && first && threadIdx.x == 0;
  if (counts) atomicAdd(params.corrections, 1);
  const Correction<T, D> correction(params, layout, memory, row);
  if (row.n > row.k) {
    correction.score();
    cluster.sync();
    correction.pool(softmax);
  }
  cluster.sync();
  Chosen chosen;
  if (first) {
    chosen = choose_row(params, row, layout.row, reinterpret_cast<float*>(memory), lists, shared,
                        reinterpret_cast<Move*>(memory + layout.moves));
    if (threadIdx.x == 0) move_count = chosen.moves;
  }
  cluster.sync();
  correction.copy(*cluster.map_shared_rank(&move_count, 0));
  if (first) finish_row(params, row, chosen, lists);
  cluster.sync();  // all have copied; nobody reads the first one's memory after it has ended
  if (counts) atomicSub(params.corrections, 1);
#else
  __trap();  // can_correct_pages() is false here
#endif
}

template <typename Launch>
void with_kernel(const KvGeometry& kv, Launch&& launch) {
  with_head_dim(kv.head_dim, [&](auto dim) {
    if (kv.type == KvType::kBF16) {
      launch(correct_kernel<__nv_bfloat16, dim.value>);
    } else {
      launch(correct_kernel<__half, dim.value>);
    }
  });
}

}  // namespace

bool can_correct_pages(const SelectParams& params) {
  if (params.sketch != SketchKind::kMinMax || params.mass) return false;
  if (layout_of(params).bytes > kMaxShared) return false;
  bool can = false;
  with_kernel(params.kv, [&](auto* kernel) {
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
  with_kernel(params.kv, [&](auto* kernel) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(kMaxShared)),
               "correct_pages: shared memory");
    launch_early_in_clusters(kernel, static_cast<unsigned>(rows) * kCluster, kThreads, kCluster,
                             layout.bytes, stream, params, layout);
  });
}

}  // namespace freekv::cuda
