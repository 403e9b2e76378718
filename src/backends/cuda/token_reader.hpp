// What a sequence has of its tokens, back to the host: for a runner there that goes on from it.
#pragma once

#include "backends/cuda/decoder.hpp"
#include "core/view.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {

/// Keeps the memory that it reads through: as much as the longest call wanted.
class TokenReader {
 public:
  /// Keys and values [T, M, d] of the tokens from `first` on of a layer, whichever tier has them,
  /// as f32. Waits for the decoder's stream. Throws Error(kInvalidArgument) when it has fewer.
  void read(const Decoder& decoder, int32_t sequence, int32_t layer, int64_t first,
            View<float, 3> k, View<float, 3> v);

 private:
  DeviceBuffer device_;  // [K|V][T, M, e]
  PinnedBuffer host_;    // the same
};

}  // namespace freekv::cuda
