#include "backends/cuda/prefill_attention_launch.cuh"

namespace freekv::cuda {

void prefill_attention_64(const PrefillAttentionParams& params, cudaStream_t stream) {
  PrefillTile<64, 32, 64>::run(params, stream);
}

}  // namespace freekv::cuda
