// The selection of one row by a cluster of CTAs, each of which has a run of the candidates: what
// choose_row() does, to the same result. Device code for sm_90 and newer only.
#pragma once

#include <cooperative_groups.h>

#include <algorithm>
#include <bit>
#include <cstdint>

#include "backends/cuda/choose_row.cuh"

namespace freekv::cuda {

/// CTAs: what every GPU that has clusters allows. Sixteen need most of a GPC's SMs at once: one
/// other CTA there keeps all of them waiting, and a GPU has room for seven of such clusters.
inline constexpr int kCluster = 8;

/// Dynamic shared memory of a CTA, in bytes from its beginning. All multiples of 16.
struct ShareLayout {
  int candidates = 0;  // most of a CTA, whole splits
  int sort = 0;        // of keys: a power of two, the resident slots or more
  size_t values = 0;   // [candidates] pooled
  size_t slots = 0;    // [candidates] 16 bits: slot + 1 of those that are resident, or 0
  size_t tables = 0;   // of RowSlots
  size_t keys = 0;     // [sort]
  size_t order = 0;    // [resident]: the order in which slots are given up
  size_t stays = 0;    // [resident]: whether the page there is selected
  size_t victims = 0;  // [resident]: slots that do not stay, in order
  size_t missing = 0;  // [k] selected pages that are not resident, ascending
  size_t bytes = 0;

  size_t place(size_t size) {
    const size_t at = bytes;
    bytes += (size + 15) / 16 * 16;
    return at;
  }
};

/// More slots than these have no room in ShareLayout::slots.
inline constexpr int kMostShareSlots = 65534;

inline ShareLayout share_layout(const SelectParams& params) {
  const auto resident = static_cast<size_t>(params.map.resident);
  const int64_t splits = SelectionScratch::padded(params.max_candidates) / kScoreSplit;
  ShareLayout layout;
  layout.candidates = static_cast<int>((splits + kCluster - 1) / kCluster * kScoreSplit);
  layout.sort = static_cast<int>(std::max<size_t>(64, std::bit_ceil(resident)));
  const auto candidates = static_cast<size_t>(layout.candidates);
  layout.values = layout.place(candidates * sizeof(float));
  layout.slots = layout.place(candidates * sizeof(uint16_t));
  layout.tables = layout.place(2 * resident * sizeof(int32_t));
  layout.keys = layout.place(static_cast<size_t>(layout.sort) * sizeof(unsigned long long));
  layout.order = layout.place(resident * sizeof(int32_t));
  layout.stays = layout.place(resident * sizeof(int32_t));
  layout.victims = layout.place(resident * sizeof(int32_t));
  layout.missing = layout.place(static_cast<size_t>(params.map.selected) * sizeof(int32_t));
  return layout;
}

/// Static shared memory of a CTA.
struct ShareShared {
  SelectShared own;            // its candidates by digit
  uint32_t histogram[4][256];  // those of the row, to which all CTAs add theirs
  int32_t equals[kCluster];    // of each CTA: those equal to the k-th best
  int32_t found[kCluster];     // and what compact_two() finds
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
/// The same variable of the CTA of that rank.
template <typename T>
__device__ T* of_cta(T* own, int rank) {
  return cooperative_groups::this_cluster().map_shared_rank(own, static_cast<unsigned>(rank));
}

/// What a CTA knows about its run of a row's candidates, and does with them.
class ClusterShare {
 public:
  __device__ ClusterShare(const SelectParams& params, const Row& row, const ShareLayout& layout,
                          unsigned char* memory, ShareShared& shared)
      : params_(params),
        row_(row),
        layout_(layout),
        memory_(memory),
        shared_(shared),
        rank_(static_cast<int>(cooperative_groups::this_cluster().block_rank())),
        tables_(row.layer, row.head, params.map.resident, at<int32_t>(layout.tables)) {
    const int splits = (row.n + kScoreSplit - 1) / kScoreSplit;
    first_ = rank_ * ((splits + kCluster - 1) / kCluster) * kScoreSplit;
    const int next = (rank_ + 1) * ((splits + kCluster - 1) / kCluster) * kScoreSplit;
    n_ = max(min(next, row.n) - first_, 0);
  }

  __device__ int first() const { return first_; }  // of the row's candidates
  __device__ int candidates() const { return n_; }
  __device__ float* values() const { return at<float>(layout_.values); }
  __device__ Move move(int i) const {
    return {at<int32_t>(layout_.missing)[i], at<int32_t>(layout_.victims)[i]};
  }

  /// Before scores exist: the row's tables, where candidates are resident, and the order in which
  /// slots are given up. Only the row's own selections write these tables, so that they can be read
  /// before the kernel in front has ended. A barrier of the cluster must follow.
  __device__ void read_tables() const {
    clear_histogram(shared_.own);
    auto* slots = at<uint16_t>(layout_.slots);
    auto* stays = at<int32_t>(layout_.stays);
    for (int i = threadIdx.x; i < 4 * 256; i += cta_threads()) {
      shared_.histogram[i / 256][i % 256] = 0;
    }
    for (int i = threadIdx.x; i < n_; i += cta_threads()) slots[i] = 0;
    for (int i = threadIdx.x; i < params_.map.resident; i += cta_threads()) stays[i] = 0;
    if (!row_.layer.budgeted) return;
    tables_.load();
    __syncthreads();
    for (int slot = threadIdx.x; slot < tables_.resident; slot += cta_threads()) {
      const int i = tables_.pages[slot] - params_.map.sink - first_;
      if (tables_.pages[slot] >= 0 && i >= 0 && i < n_) slots[i] = static_cast<uint16_t>(slot + 1);
    }
    auto* keys = at<unsigned long long>(layout_.keys);
    tables_.make_keys(keys, layout_.sort, [](int) { return false; });
    __syncthreads();
    tables_.order_victims(keys, layout_.sort, at<int32_t>(layout_.order));
  }

  /// Once all CTAs have the values of their candidates, if there are more than are selected:
  /// selected, last use and all CTAs' moves. Ends with a barrier of the cluster and one of the CTA:
  /// nobody looks at another's memory from then on.
  __device__ Chosen choose() const {
    if (params_.forced_churn >= 0 && row_.n > row_.k) draw_values();
    const KBest best = k_best();
    const auto* slots = at<uint16_t>(layout_.slots);
    const uint32_t now = row_.clock + 1;
    int32_t* selected = row_.layer.selected + int64_t{row_.head} * row_.k;
    const auto keep = [&](int rank, int i) {
      selected[rank] = params_.map.sink + first_ + i;
      if (slots[i] == 0) return;
      const int slot = slots[i] - 1;
      tables_.last_use[slot] = now;
      for (int cta = 0; cta < kCluster; ++cta) of_cta(at<int32_t>(layout_.stays), cta)[slot] = 1;
    };
    const auto bring = [&](int rank, int i) {
      for (int cta = 0; cta < kCluster; ++cta) {
        of_cta(at<int32_t>(layout_.missing), cta)[rank] = params_.map.sink + first_ + i;
      }
    };
    const Compacted taken = compact_two(
        n_, shared_.own, [&](int i) { return best.has(i); },
        [&](int i) { return !row_.layer.budgeted || slots[i] != 0; }, keep, bring,
        [&](int found) { return exchange(found, shared_.found); });
    cooperative_groups::this_cluster().sync();
    if (!row_.layer.budgeted) return {taken.all, 0};
    const auto* stays = at<int32_t>(layout_.stays);
    const auto* order = at<int32_t>(layout_.order);
    auto* victims = at<int32_t>(layout_.victims);
    compact(
        tables_.resident, shared_.own, [&](int i) { return stays[order[i]] == 0; },
        [&](int rank, int i) { victims[rank] = order[i]; });
    return {taken.all, taken.fresh};
  }

  /// By one CTA: the tables after the moves, and the counters.
  __device__ void finish(const Chosen& chosen) const {
    for (int i = threadIdx.x; i < chosen.moves; i += cta_threads()) {
      tables_.give(move(i).slot, move(i).page, row_.clock + 1);
    }
    if (threadIdx.x != 0) return;
    if (row_.layer.budgeted) row_.layer.clock[row_.head] = row_.clock + 1;
    row_.layer.selected_count[row_.head] = chosen.pages;
    count_selection(params_, row_, chosen.pages, chosen.moves);
  }

 private:
  template <typename V>
  __device__ V* at(size_t offset) const {
    return reinterpret_cast<V*>(memory_ + offset);
  }

  // What forced churn puts in the place of pooled scores.
  __device__ void draw_values() const {
    const Churn churn{row_.seed, params_.forced_churn};
    const auto* slots = at<uint16_t>(layout_.slots);
    for (int i = threadIdx.x; i < n_; i += cta_threads()) {
      const bool selected =
          row_.layer.budgeted && slots[i] != 0 && tables_.uses[slots[i] - 1] == row_.clock;
      values()[i] = selected ? churn.selected(first_ + i) : churn.fresh(first_ + i);
    }
    __syncthreads();
  }

  // Tells all CTAs how many this one has, in `by_cta`, and gets what the others say.
  __device__ Joined exchange(int own, int32_t* by_cta) const {
    if (threadIdx.x < kCluster) of_cta(by_cta, static_cast<int>(threadIdx.x))[rank_] = own;
    cooperative_groups::this_cluster().sync();
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int of_lane = lane < kCluster ? by_cta[lane] : 0;
    return {sum_of_warp(lane < rank_ ? of_lane : 0), sum_of_warp(of_lane)};
  }

  // Of this CTA's candidates those that are among the k best of all.
  __device__ KBest k_best() const {
    if (row_.n <= row_.k) return {values(), true, 0, 0};
    const Kth kth = kth_largest(row_.n, row_.k, [&](int pass, uint32_t found) {
      uint32_t* own = shared_.own.histogram[pass];
      count_digits(values(), n_, pass, found, own);
      __syncthreads();
      for (int i = threadIdx.x; i < kCluster * 256; i += cta_threads()) {
        const uint32_t count = own[i % 256];
        if (count != 0) atomicAdd(of_cta(shared_.histogram[pass], i / 256) + i % 256, count);
      }
      cooperative_groups::this_cluster().sync();
      return shared_.histogram[pass];
    });
    KBest best{values(), false, kth.order, n_};
    if (kth.taken == kth.equals) return best;
    // Of equals the lower are taken. All digits are known then, and the last pass has counted them.
    const auto own = static_cast<int>(shared_.own.histogram[3][bin_of(kth.order & 255u)]);
    const int taken = kth.taken - exchange(own, shared_.equals).before;
    if (taken >= own) return best;
    best.last_equal = -1;
    if (taken <= 0) return best;
    compact(
        n_, shared_.own, [&](int i) { return order_of(values()[i]) == kth.order; },
        [&](int rank, int i) {
          if (rank == taken - 1) shared_.own.last_equal = i;
        });
    best.last_equal = shared_.own.last_equal;
    return best;
  }

  const SelectParams& params_;
  const Row& row_;
  const ShareLayout& layout_;
  unsigned char* memory_;
  ShareShared& shared_;
  int rank_;
  RowSlots tables_;
  int first_;
  int n_;
};
#endif

}  // namespace freekv::cuda
