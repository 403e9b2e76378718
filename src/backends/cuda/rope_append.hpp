// Between the projections and attention: rotation, the append to the current page, and the
// correction test (FreeKV, section 4.2), which are all one pass over q and k.
#pragma once

#include <cuda_runtime_api.h>

#include "backends/cuda/layout.hpp"

namespace freekv::cuda {

enum class Rope : uint8_t {
  kInterleaved,  // rotates (2i, 2i+1)
  kHalves,       // rotates (i, i + d/2)
};

struct RopeAppendParams {
  Batch batch;
  KvGeometry kv;
  PageMap map;
  int32_t layer = 0;
  const float* qkv = nullptr;     // [n, (H + 2M) * d]: q, then k, then v
  const float* q_norm = nullptr;  // [d]: RMS norm of each head's query before it turns, or null
  const float* k_norm = nullptr;  // [d], or null
  float norm_eps = 0;
  const float* frequencies = nullptr;  // [d/2]: an angle is position * frequency in f32
  float rope_scale = 1;                // of cosines and sines
  Rope rope = Rope::kInterleaved;
  /// Cosine below which a head is corrected; above 1 always. Negative two and less: never, but for
  /// the first step.
  float tau = 0.8f;
  /// Benchmarks of synthetic weights: in place of the cosine, this share of the heads counts as
  /// drifted, drawn by a hash of (T, layer, sequence, head). Negative: off.
  float forced_drift = -1;
  float* q = nullptr;               // [R, G, d] out: rotated
  RowMode* mode = nullptr;          // [R] out
  RowCounters* counters = nullptr;  // of this layer: [sequences][M]; null: nothing is counted
};
/// Norms and rotates q and k by position T - 1, writes k and v in the KV type to the slot of the
/// current page, tests which rows drifted, then keeps q as SequenceLayer::previous_q and sets
/// `started`. A row is dense unless its layer retrieves and T > B; corrected when it has not
/// started or its mean cosine (f32; a zero vector's is 0; NaN counts as drifted) is not >= tau.
void rope_append(const RopeAppendParams& params, cudaStream_t stream);

}  // namespace freekv::cuda
