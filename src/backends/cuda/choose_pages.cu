// choose_pages() of selection.hpp: pooling, top-k and the choice of slots, one CTA per row.
#include "backends/cuda/choose_row.cuh"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/pooling.cuh"
#include "backends/cuda/selection.hpp"
#include "backends/cuda/selection_scratch.hpp"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr int kMaxGroup = 16;
/// Few enough to find room on an SM beside a matrix product, and the registers that it leaves
/// (gemv.cu).
constexpr int kThreads = 256;
constexpr int kRegisters = 32;
/// With the static part below what every chip from sm_80 on gives a CTA (99 KiB). Pooled values
/// that do not fit are read from scratch.
constexpr size_t kMaxShared = size_t{92} << 10;

// The pooled scores of a row, to values and, for tests, to scratch.
__device__ void pool_scores(const SelectParams& params, const Row& row, float* values) {
  __shared__ HeadSoftmax softmax[kMaxGroup];
  const SelectionScratch scratch(params);
  const int group = params.kv.group;
  const float factor = params.scale * kLog2E;
  const int splits = (row.n + kScoreSplit - 1) / kScoreSplit;
  for (int g = threadIdx.x / 32; has_softmax(params.pooling) && g < group; g += kThreads / 32) {
    const HeadSoftmax joined = join_splits(scratch.row_splits(row.at, g), splits, factor);
    if (threadIdx.x % 32 == 0) softmax[g] = joined;
  }
  __syncthreads();
  const float* scores = scratch.row_scores(row.at, 0);
  float* pooled = scratch.row_pooled(row.at);
  with_pooling(params.pooling, [&](auto rule) {
    // Four at a time; up to three values past n are written, within the padded stride.
    for (int i = 4 * static_cast<int>(threadIdx.x); i < row.n; i += 4 * kThreads) {
      const float4 value =
          pool_four<decltype(rule)::value>(scores + i, scratch.stride, group, softmax, factor);
      *reinterpret_cast<float4*>(values + i) = value;
      if (values != pooled) *reinterpret_cast<float4*>(pooled + i) = value;
    }
  });
  __syncthreads();
}

// One CTA per row.
__global__ void __maxnreg__(kRegisters)
    choose_kernel(const __grid_constant__ SelectParams params, const RowShared sizes) {
  extern __shared__ uint4 choose_memory[];
  __shared__ SelectShared shared;
  let_next_start();
  const auto at = static_cast<int>(blockIdx.x);
  const Row row = read_row(params, at);
  const RowLists lists =
      row_lists(reinterpret_cast<unsigned char*>(choose_memory), sizes, row.k, params.map.resident);
  clear_histogram(shared);
  read_tables(params, row, sizes, lists);
  wait_for_previous();
  if (params.mode[at] != params.which) {
    if (threadIdx.x == 0) params.move_count[at] = 0;
    return;
  }
  __syncthreads();

  float* values = row.n <= sizes.values ? reinterpret_cast<float*>(choose_memory)
                                        : SelectionScratch(params).row_pooled(at);
  if (row.n > row.k) pool_scores(params, row, values);
  const Chosen chosen =
      choose_row(params, row, sizes, values, lists, shared, params.moves + int64_t{at} * row.k);
  finish_row(params, row, chosen, lists);
  if (threadIdx.x == 0) params.move_count[at] = chosen.moves;
}

}  // namespace

void choose_pages(const SelectParams& params, cudaStream_t stream) {
  const PageMap& map = params.map;
  check_argument(params.kv.group >= 1 && params.kv.group <= kMaxGroup,
                 "the group is {}, must be 1 to {}", params.kv.group, kMaxGroup);
  check_argument(map.selected >= 1 && map.resident >= map.selected,
                 "{} pages are selected and {} resident, must be one and as many at least",
                 map.selected, map.resident);
  check_argument(map.resident <= 1 << 20, "{} pages are resident, must be at most {}", map.resident,
                 1 << 20);
  const int64_t rows = int64_t{params.batch.n} * params.kv.kv_heads;
  if (rows == 0) return;
  const RowShared sizes = row_shared(params, kMaxShared);
  check_argument(sizes.bytes <= kMaxShared,
                 "{} bytes of shared memory for {} selected and {} resident pages, must be at most "
                 "{}",
                 sizes.bytes, map.selected, map.resident, kMaxShared);
  // Always the same limit: threads that launch at the same time must not lower each other's.
  check_cuda(cudaFuncSetAttribute(choose_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(kMaxShared)),
             "cudaFuncSetAttribute(choose_pages)");
  launch_early(choose_kernel, static_cast<unsigned>(rows), kThreads, sizes.bytes, stream, params,
               sizes);
}

}  // namespace freekv::cuda
