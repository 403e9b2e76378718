// Pinned host memory that is kept for the next who needs it. Locking pages takes some 0.5 s a GiB,
// more than reading a short prompt into them.
#pragma once

#include <mutex>
#include <vector>

#include "device/cuda/runtime.hpp"

namespace freekv::cuda {

/// Used by any thread.
class PinnedPool {
 public:
  /// Keeps at most `limit` bytes; what is larger goes back to the system when it is given.
  explicit PinnedPool(size_t limit) : limit_(limit) {}

  /// Throws as PinnedBuffer does, but takes nothing, unless take(bytes) would find memory.
  void check(size_t bytes);
  /// At least `bytes`, with whatever the last user left in it. Throws as PinnedBuffer does.
  PinnedBuffer take(size_t bytes, int threads);
  void give(PinnedBuffer buffer) noexcept;
  size_t kept() const;

 private:
  using Buffers = std::vector<PinnedBuffer>;
  /// The smallest that is large enough, unless most of it would lie idle.
  Buffers::iterator find(size_t bytes);

  mutable std::mutex mutex_;
  size_t limit_;
  Buffers buffers_;
};

}  // namespace freekv::cuda
