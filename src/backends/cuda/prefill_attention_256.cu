#include "backends/cuda/prefill_attention_launch.cuh"

namespace freekv::cuda {

// Half the queries and 64 keys: 96 KiB of shared memory, which every GPU from sm_80 on has.
void prefill_attention_256(const PrefillAttentionParams& params, cudaStream_t stream) {
  PrefillTile<256, 16, 64>::run(params, stream);
}

}  // namespace freekv::cuda
