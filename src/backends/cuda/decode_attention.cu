#include "backends/cuda/decode_attention.hpp"

#include "backends/cuda/decode_attention_launch.cuh"

namespace freekv::cuda {
namespace {

using decode::kMaxSplits;
using decode::Scratch;

// Counters come first, as many as there may ever be: graphs of other batches and splits, run one
// after the other, can share the scratch memory, since none of them writes sums over counters.
constexpr int64_t kMaxRows = 65536;

/// Where the parts of the scratch memory begin, in bytes.
struct ScratchLayout {
  size_t ends = 0;
  size_t sums = 0;
  size_t bytes = 0;

  ScratchLayout(const KvGeometry& kv, int32_t n, int32_t splits) {
    const auto rounded = [](size_t size) { return (size + 255) / 256 * 256; };
    const size_t rows = static_cast<size_t>(n) * static_cast<size_t>(kv.kv_heads);
    const size_t parts = rows * static_cast<size_t>(splits) * static_cast<size_t>(kv.group);
    ends = rounded(kMaxRows * sizeof(unsigned));
    sums = ends + rounded(parts * sizeof(float2));
    bytes = sums + parts * static_cast<size_t>(kv.head_dim) * sizeof(float);
  }
  Scratch at(void* base) const {
    if (base == nullptr) return {};
    auto* bytes_at = static_cast<std::byte*>(base);
    return {reinterpret_cast<unsigned*>(bytes_at), reinterpret_cast<float2*>(bytes_at + ends),
            reinterpret_cast<float*>(bytes_at + sums)};
  }
};

bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

void check(const DecodeAttentionParams& params) {
  const KvGeometry& kv = params.kv;
  check_argument(kv.kv_heads >= 1 && kv.group >= 1 && kv.group <= decode::kRows,
                 "decode attention: {} KV heads of groups of {}, at most {}", kv.kv_heads, kv.group,
                 decode::kRows);
  check_argument(kv.page > 0 && kv.page % decode::kTile == 0 && kv.page == params.map.page,
                 "decode attention: pages of {} tokens, the page map's of {}, tiles of {}", kv.page,
                 params.map.page, decode::kTile);
  check_argument(params.layer >= 0 && params.layer < params.batch.layer_count,
                 "decode attention: layer {} of {}", params.layer, params.batch.layer_count);
  check_argument(params.splits >= 1 && params.splits <= kMaxSplits,
                 "decode attention: {} splits, at most {}", params.splits, kMaxSplits);
  const int64_t rows = int64_t{params.batch.n} * kv.kv_heads;
  check_argument(rows <= kMaxRows, "decode attention: {} rows, at most {}", rows, kMaxRows);
  check_argument(params.splits == 1 || params.scratch != nullptr,
                 "decode attention: {} splits without scratch", params.splits);
  check_argument(is_aligned(params.q) && is_aligned(params.out) && is_aligned(params.scratch),
                 "decode attention: q, out and scratch must be at multiples of {} bytes", 16);
}

}  // namespace

size_t decode_attention_scratch(const KvGeometry& kv, int32_t n, int32_t splits) {
  return ScratchLayout(kv, n, splits).bytes;
}

void decode_attention(const DecodeAttentionParams& params, cudaStream_t stream) {
  if (params.batch.n == 0) return;
  check(params);
  const Scratch scratch =
      ScratchLayout(params.kv, params.batch.n, params.splits).at(params.scratch);
  if (params.kv.type == KvType::kBF16) {
    decode::launch<KvType::kBF16>(params, scratch, stream);
  } else {
    decode::launch<KvType::kF16>(params, scratch, stream);
  }
  check_cuda(cudaGetLastError(), "decode_attention");
}

}  // namespace freekv::cuda
