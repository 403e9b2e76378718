// Prefill on a GPU: exact, a layer at a time over all tokens of the prompt, so that one layer's KV
// is on the device whatever the length; chunk by chunk within the layer. Pages go to the slow tier
// by the copy engine, behind the next chunk's compute.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "backends/cuda/decoder.hpp"

namespace freekv::cuda {

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

  /// Device memory that a prompt of `tokens` takes while it runs, beside weights and sequence.
  size_t bytes(int64_t tokens) const;

  /// Computes the prompt `ids` [1 .. limits.tokens], puts its KV where `decoder` wants it and makes
  /// the open `sequence`, whose context holds it, ready to decode. `decoder` has this shape.
  /// `logits` [V] f32, in device or host memory, takes the last token's. Blocks.
  /// `proceed(done)` is told tokens done, counted over all layers (ids.size() at the end), in order
  /// and while the next part is computed; if it returns false, run() throws Error(kCancelled). May
  /// be empty. Throws kOutOfMemory with both byte counts before it begins. After an error the
  /// sequence has to be closed, or begun anew.
  void run(Decoder& decoder, int32_t sequence, std::span<const int32_t> ids,
           const std::function<bool(int64_t)>& proceed, float* logits);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace freekv::cuda
