#include "backends/cuda/token_reader.hpp"

#include <cstdint>

#include "backends/cuda/collect_pages.hpp"
#include "backends/cuda/padded_rows.hpp"
#include "backends/cuda/prefill_attention.hpp"
#include "core/check.hpp"

namespace freekv::cuda {
namespace {

constexpr size_t kValueBytes = 2;  // bf16 and fp16

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
  load_padded_rows(kv.type, host_.data(), stride, k);
  load_padded_rows(kv.type, host_.data() + half, stride, v);
}

}  // namespace freekv::cuda
