// Moving pages between the tiers: recall by a kernel that reads pinned host memory itself, and the
// turn-over of pages that filled (algorithm.md, section 5).
#pragma once

#include <cuda_runtime_api.h>

#include "backends/cuda/layout.hpp"

namespace freekv::cuda {

/// Brings the moves of all rows from the slow tier into their slots, HND to NHD on the way: slot s
/// of a move is slot PageMap::sink + s of the fast tier. Lists and counts come from device memory.
struct GatherParams {
  Batch batch;
  KvGeometry kv;
  PageMap map;
  int32_t layer = 0;
  const Move* moves = nullptr;          // [R][k]
  const int32_t* move_count = nullptr;  // [R]
  int32_t ctas = 8;                     // a capped grid: the link needs few, the rest computes
  /// SelectParams::corrections: no bulk copy begins while there are any, since attention waits for
  /// those that share the link with it. Null: copies do not wait.
  const int32_t* corrections = nullptr;
};
/// Bulk asynchronous copies on sm_90 and newer, 16-byte loads elsewhere.
void gather(const GatherParams& params, cudaStream_t stream);
/// 16-byte loads everywhere: what gather() is measured against.
void gather_loads(const GatherParams& params, cudaStream_t stream);

/// Converts head pages [count][K|V][p][d] that the copy engine brought to `staging` into the slots
/// of one row: the second half of the mechanism `streamed` (FreeKV, section 4.3).
struct ConvertParams {
  KvGeometry kv;
  PageMap map;
  SequenceLayer layer;
  int32_t head = 0;
  const void* staging = nullptr;
  const Move* moves = nullptr;  // [count], device memory
  int32_t count = 0;
};
void convert_pages(const ConvertParams& params, cudaStream_t stream);

/// After the step's last layer: where the token at T - 1 completed a page, that page is sketched
/// and written to the slow tier once, in all layers and heads; elsewhere the launch ends at once.
struct TurnOverParams {
  Batch batch;  // tokens before advance(): T - 1
  KvGeometry kv;
  PageMap map;
};
void turn_over(const TurnOverParams& params, cudaStream_t stream);

}  // namespace freekv::cuda
