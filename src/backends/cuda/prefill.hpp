// Prefill on a GPU: exact, a layer at a time over all tokens of the prompt, so that one layer's KV
// is on the device whatever the length; chunk by chunk within the layer. Pages go to the slow tier
// by the copy engine, behind the next chunk's compute. What another prompt has in common is read
// back from its sequence's pages, a layer at a time too.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "backends/cuda/decoder.hpp"
#include "backends/device_model.hpp"

namespace freekv::cuda {

/// The first `tokens` tokens of a prompt as the sequence of another one, or the same sequence,
/// holds them: computed by prefill, not by decode steps. The decoder may have any rule and page
/// size; its weights and KV type are those of this prefill.
struct KvPrefix {
  Decoder* decoder = nullptr;
  int32_t sequence = 0;
  int64_t tokens = 0;
};

struct PrefillLimits {
  int32_t chunk = 8192;  // tokens computed together, a multiple of the page
  int64_t tokens = 0;    // of the longest prompt
};

/// Used by one thread. Holds streams and what cuBLASLt needs; memory for a prompt is taken when it
/// runs and given back.
class Prefill {
 public:
  /// `weights` are borrowed as the decoder borrows them; matrices and vectors begin at multiples of
  /// 16 bytes, hidden and ffn are multiples of 8. Throws Error(kInvalidArgument) for a shape it has
  /// no kernels for, kDevice where cuBLASLt does not start.
  Prefill(const DecoderShape& shape, DecoderWeights weights, const PrefillLimits& limits);
  ~Prefill();
  Prefill(const Prefill&) = delete;
  Prefill& operator=(const Prefill&) = delete;

  /// Device memory that a prompt of `tokens` takes while it runs, beside weights and sequence;
  /// 2 bytes a value more where queries are asked for.
  size_t bytes(int64_t tokens) const;

  /// Computes the prompt `ids` [1 .. limits.tokens], puts its KV where `decoder` wants it and makes
  /// the open `sequence`, whose context holds it, ready to decode. `decoder` has this shape.
  /// `logits` [V] f32, in device or host memory, takes the last token's. Blocks.
  /// `proceed(done)` is told tokens done, counted over all layers (ids.size() at the end), in order
  /// and while the next part is computed; if it returns false, run() throws Error(kCancelled). May
  /// be empty. Throws kOutOfMemory with both byte counts before it begins. After an error the
  /// sequence has to be closed, or begun anew.
  ///
  /// `prefix` is copied, to the bit, in place of being computed: whole pages of `decoder`, or the
  /// whole prompt, of which then nothing is computed and `logits` is not written. What is computed
  /// after it may differ from a prompt without prefix by rounding: its chunks begin elsewhere, and
  /// matrix products of other sizes sum in another order.
  void run(Decoder& decoder, int32_t sequence, std::span<const int32_t> ids,
           const std::function<bool(int64_t)>& proceed, float* logits, const KvPrefix& prefix = {},
           const DeviceQueries& queries = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace freekv::cuda
