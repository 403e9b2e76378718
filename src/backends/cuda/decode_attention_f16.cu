// The kernels of decode_attention() for fp16: a file per type, since they compile for long.
#include "backends/cuda/decode_attention_launch.cuh"

namespace freekv::cuda::decode {

template void launch<KvType::kF16>(const DecodeAttentionParams&, const Scratch&, cudaStream_t);

}  // namespace freekv::cuda::decode
