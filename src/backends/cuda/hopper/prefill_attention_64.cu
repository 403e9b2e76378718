#include "backends/cuda/hopper/prefill_attention_launch.cuh"

namespace freekv::cuda {

void prefill_attention_hopper_64(const PrefillAttentionParams& params, cudaStream_t stream) {
  launch_hopper<64>(params, stream);
}

}  // namespace freekv::cuda
