// The correction of heads whose query moved (algorithm.md, section 4, step 3) in one kernel: what
// score_pages(), choose_pages() and gather() do one after the other for the rows that wait for it.
#pragma once

#include <cuda_runtime_api.h>

#include "backends/cuda/selection.hpp"

namespace freekv::cuda {

/// So many candidates, at most, of a sequence are scored faster by a kernel of their own, on all
/// SMs, and selecting among them for the next step lasts until the next layer corrects.
inline constexpr int32_t kManyCandidates = 2048;

/// Whether correct_pages() takes these: clusters of CTAs (sm_90 and newer), and scores of a row
/// that fit in their shared memory.
bool can_correct_pages(const SelectParams& params);

/// Selects the same pages into the same slots as score_pages() and choose_pages(), and brings them
/// from the slow tier as gather() does. `moves` are not used, and `scratch` only for scores that a
/// kernel of their own makes: of many candidates, and of other sketches than minmax. A cluster
/// works on each row, so that its results pass through shared memory and no launch stands between
/// the parts: attention waits for the whole of it.
void correct_pages(const SelectParams& params, cudaStream_t stream);

}  // namespace freekv::cuda
