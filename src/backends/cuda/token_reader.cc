#include "backends/cuda/token_reader.hpp"

#include <cstdint>

#include "backends/cuda/collect_pages.hpp"
#include "backends/cuda/prefill_attention.hpp"
#include "core/check.hpp"
#include "core/dtype.hpp"

namespace freekv::cuda {
namespace {

constexpr size_t kValueBytes = 2;  // bf16 and fp16

/// Rows of `stride` values, of which the first d are wanted.
void convert(const std::byte* from, int64_t stride, KvType type, View<float, 3> to) {
  const DType dtype = type == KvType::kBF16 ? DType::kBF16 : DType::kF16;
  const int64_t rows = to.shape(0) * to.shape(1), dim = to.shape(2);
  for (int64_t row = 0; row < rows; ++row) {
    load_row(dtype, from + static_cast<size_t>(row * stride) * kValueBytes,
             {to.data() + row * dim, static_cast<size_t>(dim)});
  }
}

}  // namespace

void TokenReader::read(const Decoder& decoder, int32_t sequence, int32_t layer, int64_t first,
                       View<float, 3> k, View<float, 3> v) {
  const KvGeometry& kv = decoder.shape().kv;
  const int64_t tokens = k.shape(0), stride = prefill_head_dim(kv.head_dim);
  check_argument(k.shape(1) == kv.kv_heads && k.shape(2) == kv.head_dim && v.size() == k.size(),
                 "keys of {} heads of {} are wanted, the sequence has {} of {}", k.shape(1),
                 k.shape(2), kv.kv_heads, kv.head_dim);
  const size_t half = static_cast<size_t>(tokens * kv.kv_heads * stride) * kValueBytes;
  if (device_.bytes() < 2 * half) {
    device_ = {};
    device_ = DeviceBuffer(2 * half);
    host_ = {};
    host_ = PinnedBuffer(2 * half, 1);
  }
  collect_pages({.kv = kv,
                 .map = decoder.map(),
                 .layer = decoder.layer(sequence, layer),
                 .held = decoder.tokens(sequence),
                 .first = first,
                 .end = first + tokens,
                 .key = device_.data(),
                 .value = device_.data() + half},
                decoder.stream());
  check_cuda(cudaMemcpyAsync(host_.data(), device_.data(), 2 * half, cudaMemcpyDeviceToHost,
                             decoder.stream()),
             "the tokens of a sequence");
  check_cuda(cudaStreamSynchronize(decoder.stream()), "the tokens of a sequence");
  convert(host_.data(), stride, kv.type, k);
  convert(host_.data() + half, stride, kv.type, v);
}

}  // namespace freekv::cuda
