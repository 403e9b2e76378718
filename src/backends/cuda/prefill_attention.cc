#include "backends/cuda/prefill_attention.hpp"

#include <limits>

#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

// Whether it took the work.
bool on_hopper([[maybe_unused]] const PrefillAttentionParams& params, [[maybe_unused]] int dim,
               [[maybe_unused]] cudaStream_t stream) {
#ifdef FREEKV_CUDA_HOPPER
  if (params.portable || params.kv.type != KvType::kBF16 || dim > 128) return false;
  int device = 0, major = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "cudaDeviceGetAttribute");
  if (major != 9) return false;
  dim == 64 ? prefill_attention_hopper_64(params, stream)
            : prefill_attention_hopper_128(params, stream);
  return true;
#else
  return false;
#endif
}

}  // namespace

int prefill_head_dim(int head_dim) {
  const bool known =
      head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256;
  check_argument(known, "head_dim is {}, must be 64, 80, 96, 128 or 256", head_dim);
  return head_dim == 80 || head_dim == 96 ? 128 : head_dim;
}

void prefill_attention(const PrefillAttentionParams& params, cudaStream_t stream) {
  const KvGeometry& kv = params.kv;
  const int dim = prefill_head_dim(kv.head_dim);
  check_argument(kv.kv_heads >= 1 && kv.group >= 1, "{} KV heads of {} query heads each",
                 kv.kv_heads, kv.group);
  check_argument(params.n >= 0 && params.context >= params.n,
                 "{} queries in a context of {} tokens", params.n, params.context);
  // The kernel counts (token, head of a group) and values in 32 bits.
  constexpr int64_t kMost = std::numeric_limits<uint32_t>::max();
  check_argument(
      params.context * kv.kv_heads * dim <= kMost && params.n * kv.query_heads() * dim <= kMost,
      "{} queries in a context of {} tokens are too many values for {} and {} heads", params.n,
      params.context, kv.query_heads(), kv.kv_heads);
  if (params.n == 0 || on_hopper(params, dim, stream)) return;
  switch (dim) {
    case 64:
      return prefill_attention_64(params, stream);
    case 128:
      return prefill_attention_128(params, stream);
    default:
      return prefill_attention_256(params, stream);
  }
}

}  // namespace freekv::cuda
