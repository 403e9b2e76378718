#include "backends/cuda/prefill_attention_launch.cuh"

namespace freekv::cuda {

void prefill_attention_128(const PrefillAttentionParams& params, cudaStream_t stream) {
  PrefillTile<128, 32, 64>::run(params, stream);
}

}  // namespace freekv::cuda
