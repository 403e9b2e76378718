// How far a prompt is, told while the device computes.
#pragma once

#include <cstdint>
#include <functional>

#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {

/// Tells of parts of the work in order, each once it is done; at most two are queued, so that a
/// device of any speed is kept busy and a cancelled prompt ends soon.
class PrefillProgress {
 public:
  explicit PrefillProgress(const std::function<bool(int64_t)>& proceed) : proceed_(proceed) {}
  /// Queued work up to here makes `done` tokens.
  void mark(int64_t done, cudaStream_t stream) {
    Part& part = parts_[count_++ % 2];
    part.event.record(stream);
    part.done = done;
  }
  /// Waits until at most `ahead` parts (0 or 1) are left to tell of.
  void wait(int ahead) {
    for (; count_ - told_ > ahead; ++told_) {
      Part& part = parts_[told_ % 2];
      check_cuda(cudaEventSynchronize(part.event), "prefill");
      if (proceed_ && !proceed_(part.done)) {
        fail(ErrorCode::kCancelled, "the prompt was cancelled after {} tokens", part.done);
      }
    }
  }

 private:
  struct Part {
    Event event{EventUse::kSleep};  // a part takes milliseconds
    int64_t done = 0;
  };
  const std::function<bool(int64_t)>& proceed_;
  Part parts_[2];
  int64_t count_ = 0, told_ = 0;
};

}  // namespace freekv::cuda
