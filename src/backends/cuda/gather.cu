// Recall straight out of pinned host memory. A capped grid shares out the moves of the whole batch:
// item i goes to CTA i mod ctas, by a prefix sum of the counts that every CTA makes for itself, so
// that neither a host nor another kernel has to prepare anything.
#include <cuda_runtime.h>

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/host_loads.cuh"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/recall.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMaxRows = 8192;  // their prefix sum stands in shared memory

// --- which moves a CTA has -----------------------------------------------------------------------

__device__ int32_t warp_prefix_sum(int32_t value) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int32_t below = __shfl_up_sync(kAllLanes, value, offset);
    if (lane >= offset) value += below;
  }
  return value;
}

// ends[r] = moves of the rows up to and with r; one warp. Loads are batched, since a launch without
// moves lasts as long as they do.
__device__ void sum_counts(const int32_t* counts, int rows, int32_t* ends) {
  constexpr int kBatch = 8;
  const int lane = threadIdx.x % kWarp;
  int32_t before = 0;
  for (int first = 0; first < rows; first += kBatch * kWarp) {
    int32_t sums[kBatch];
    bool any = false;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = first + i * kWarp + lane;
      sums[i] = row < rows ? counts[row] : 0;
      any = any || sums[i] != 0;
    }
    if (__any_sync(kAllLanes, any)) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) sums[i] = warp_prefix_sum(sums[i]);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = first + i * kWarp + lane;
      if (row < rows) ends[row] = before + sums[i];
      before += __shfl_sync(kAllLanes, sums[i], kWarp - 1);
    }
  }
}

// The first row that ends behind `item`, which is one of ends[rows - 1].
__device__ int row_of(const int32_t* ends, int rows, int32_t item) {
  int low = 0, high = rows - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (ends[middle] > item) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

__device__ HeadPageCopy locate(const GatherParams& params, const int32_t* ends, int32_t item) {
  const KvGeometry& kv = params.kv;
  const int row = row_of(ends, params.batch.n * kv.kv_heads, item);
  const int32_t nth = item - (row > 0 ? ends[row - 1] : 0);
  const Move move = params.moves[int64_t{row} * params.map.selected + nth];
  const int head = row % kv.kv_heads;
  const SequenceLayer& at = params.batch.layer(row / kv.kv_heads, params.layer);
  return head_page_copy(kv, params.map, at, head, move);
}

// How many of `total` items are this CTA's: blockIdx.x, blockIdx.x + gridDim.x, ...
__device__ int32_t items_here(int32_t total) {
  const auto first = static_cast<int32_t>(blockIdx.x), step = static_cast<int32_t>(gridDim.x);
  return first < total ? (total - first - 1) / step + 1 : 0;
}

__device__ int32_t nth_item(int32_t nth) {
  return static_cast<int32_t>(blockIdx.x) + nth * static_cast<int32_t>(gridDim.x);
}

// --- bulk asynchronous copies --------------------------------------------------------------------

// One warp per CTA and four stages reach the link's limit from 4 CTAs (measured.md, section 2), two
// from 8. No more than that: what is on its way for the next step keeps corrections waiting.
constexpr int kStages = 2;
constexpr int kStageBytes = 16 << 10;
constexpr int kBulkShared = kStages * kStageBytes + kMaxRows * static_cast<int>(sizeof(int32_t));

#if __CUDA_ARCH__ >= 900
constexpr int kPlanned = 2 * kWarp;

// A stage holds a head page or, where that is more than 16 KiB, a half or a quarter: 2p is a power
// of two, and so is the number of pieces.
template <int kDim>
__device__ int pieces_of(int page) {
  return (2 * page * kDim * 2 + kStageBytes - 1) / kStageBytes;
}

__device__ uint32_t shared_address(const void* at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

__device__ void init_barrier(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
}

// Orders what this thread did to shared memory before what the copy engine does after it.
__device__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ void copy_async(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

__device__ void wait(uint64_t* barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n"
        ".reg .pred complete;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 complete, [%1], %2;\n"
        "selp.u32 %0, 1, 0, complete;\n"
        "}\n"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  }
}

// A ring of stages that the copy engine fills and the warp empties. Pieces are counted over all of
// the CTA's items; piece s uses stage s mod kStages, for the (s / kStages)-th time.
template <int kDim>
class Ring {
 public:
  __device__ Ring(const GatherParams& params, unsigned char* stages, uint64_t* full,
                  HeadPageCopy* planned)
      : params_(params),
        stages_(stages),
        full_(full),
        planned_(planned),
        pieces_(pieces_of<kDim>(params.kv.page)),
        units_(2 * params.kv.page / pieces_ * kRowUnits<kDim>) {}

  __device__ void run(const int32_t* ends, int32_t items) const {
    prepare();
    const int32_t count = items * pieces_;
    for (int32_t s = 0; s < count + kStages; ++s) {
      if (s >= kStages) write_out(s - kStages);  // which frees the stage of s
      if (s >= count) continue;
      if (s % pieces_ == 0 && s / pieces_ % kWarp == 0) plan(ends, s / pieces_, items);
      if (threadIdx.x == 0) {
        yield_link();
        request(s);
      }
    }
  }

 private:
  __device__ void prepare() const {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kStages; ++stage) init_barrier(full_ + stage);
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
      fence_async();
    }
    __syncwarp();
  }

  // Looks up 32 items at once, a lane each: one after the other their pointers would cost more than
  // the copies. The table holds two such rounds, because those of the last are still written out.
  __device__ void plan(const int32_t* ends, int32_t first, int32_t items) const {
    const int32_t nth = first + static_cast<int32_t>(threadIdx.x);
    if (nth < items) planned_[nth % kPlanned] = locate(params_, ends, nth_item(nth));
    __syncwarp();
  }

  // Corrections are kernels that run already and wait for nobody, so that this ends.
  __device__ void yield_link() const {
    if (params_.corrections == nullptr) return;
    int32_t corrections;
    do {
      asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];"
                   : "=r"(corrections)
                   : "l"(__cvta_generic_to_global(params_.corrections)));
    } while (corrections > 0);
  }

  __device__ void request(int32_t s) const {
    const uint4* from = planned_[s / pieces_ % kPlanned].source + s % pieces_ * units_;
    copy_async(stage(s), from, bytes(), full_ + s % kStages);
  }

  __device__ void write_out(int32_t s) const {
    // Units per lane in flight between shared memory and the slot; divides those of 32 rows.
    constexpr int kBatch = kRowUnits<kDim> % 8 == 0 ? 8 : kRowUnits<kDim> / 2;
    static_assert(kRowUnits<kDim> % kBatch == 0);
    const int first = s % pieces_ * units_, lane = static_cast<int>(threadIdx.x);
    const uint4* from = stage(s);
    uint4* to = planned_[s / pieces_ % kPlanned].target;
    wait(full_ + s % kStages, static_cast<uint32_t>(s / kStages) & 1);
    for (int begin = lane; begin < units_; begin += kBatch * kWarp) {
      uint4 data[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) data[i] = from[begin + i * kWarp];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        to[fast_unit<kDim>(first + begin + i * kWarp, params_.kv.kv_heads)] = data[i];
      }
    }
    // All lanes have read the stage, and say so to the copy engine before it is filled again.
    fence_async();
    __syncwarp();
  }

  __device__ uint32_t bytes() const { return static_cast<uint32_t>(units_) * sizeof(uint4); }
  __device__ uint4* stage(int32_t s) const {
    return reinterpret_cast<uint4*>(stages_ + static_cast<uint32_t>(s % kStages) * bytes());
  }

  const GatherParams& params_;
  unsigned char* stages_;
  uint64_t* full_;
  HeadPageCopy* planned_;
  int pieces_;  // of a head page
  int units_;   // of a piece: a multiple of 32 rows
};
#endif

template <int kDim>
__global__ void __launch_bounds__(kWarp) gather_bulk(const __grid_constant__ GatherParams params) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ uint64_t full[kStages];
  __shared__ HeadPageCopy planned[kPlanned];
  let_next_start();
  wait_for_previous();
  const int rows = params.batch.n * params.kv.kv_heads;
  auto* ends = reinterpret_cast<int32_t*>(shared + kStages * kStageBytes);
  sum_counts(params.move_count, rows, ends);
  __syncwarp();
  const int32_t items = items_here(ends[rows - 1]);
  if (items > 0) Ring<kDim>(params, shared, full, planned).run(ends, items);
#else
  __trap();  // gather() does not choose it here
#endif
}

// --- 16-byte loads -------------------------------------------------------------------------------

constexpr int kLoadThreads = 512;

template <int kDim>
__global__ void __launch_bounds__(kLoadThreads)
    gather_by_loads(const __grid_constant__ GatherParams params) {
  extern __shared__ __align__(128) unsigned char shared[];
  let_next_start();
  wait_for_previous();
  auto* ends = reinterpret_cast<int32_t*>(shared);
  const int rows = params.batch.n * params.kv.kv_heads;
  if (threadIdx.x < kWarp) sum_counts(params.move_count, rows, ends);
  __syncthreads();
  const int units = 2 * params.kv.page * kRowUnits<kDim>;
  const int parts = parts_of_head_page(units);
  const int lane = threadIdx.x % kWarp;
  const int32_t count = items_here(ends[rows - 1]) * parts;
  for (int32_t at = threadIdx.x / kWarp; at < count; at += kLoadThreads / kWarp) {
    const HeadPageCopy item = locate(params, ends, nth_item(at / parts));
    copy_part<kDim>(item, at % parts * kPartUnits + lane, units, params.kv.kv_heads);
  }
}

// --- launches ------------------------------------------------------------------------------------

void check(const GatherParams& params) {
  check_head_pages(params.kv, params.map);
  const int64_t rows = int64_t{params.batch.n} * params.kv.kv_heads;
  check_argument(rows <= kMaxRows, "a batch of {} rows, at most {} are gathered at once", rows,
                 kMaxRows);
  check_argument(params.layer >= 0 && params.layer < params.batch.layer_count,
                 "layer is {}, must be 0 to {}", params.layer, params.batch.layer_count - 1);
  check_argument(params.ctas >= 1, "ctas is {}, must be at least 1", params.ctas);
}

size_t ends_bytes(const GatherParams& params) {
  return static_cast<size_t>(params.batch.n) * static_cast<size_t>(params.kv.kv_heads) *
         sizeof(int32_t);
}

// Asks what was loaded, not what the device is: code for an older one may have been translated.
template <typename Kernel>
bool has_bulk_copies(Kernel* kernel) {
  cudaFuncAttributes attributes{};
  check_cuda(cudaFuncGetAttributes(&attributes, kernel), "gather");
  return attributes.ptxVersion >= 90;
}

template <int kDim>
void launch_loads(const GatherParams& params, cudaStream_t stream) {
  launch_early(gather_by_loads<kDim>, static_cast<unsigned>(params.ctas), kLoadThreads,
               ends_bytes(params), stream, params);
}

template <int kDim>
void launch_bulk(const GatherParams& params, cudaStream_t stream) {
  // Always the same, so that launches from several threads do not disturb one another.
  check_cuda(cudaFuncSetAttribute(gather_bulk<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  kBulkShared),
             "gather");
  const size_t shared = size_t{kStages} * kStageBytes + ends_bytes(params);
  launch_early(gather_bulk<kDim>, static_cast<unsigned>(params.ctas), kWarp, shared, stream,
               params);
}

}  // namespace

void gather(const GatherParams& params, cudaStream_t stream) {
  if (params.batch.n == 0) return;
  check(params);
  with_head_dim(params.kv.head_dim, [&](auto dim) {
    if (has_bulk_copies(gather_bulk<dim()>)) {
      launch_bulk<dim()>(params, stream);
    } else {
      launch_loads<dim()>(params, stream);
    }
  });
}

void gather_loads(const GatherParams& params, cudaStream_t stream) {
  if (params.batch.n == 0) return;
  check(params);
  with_head_dim(params.kv.head_dim, [&](auto dim) { launch_loads<dim()>(params, stream); });
}

}  // namespace freekv::cuda
