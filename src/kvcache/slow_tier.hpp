// Where the whole KV of a layer lives: the slow tier of one (sequence, layer).
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/tensors.hpp"

namespace freekv {

/// Pages are head-major (HND), so that one head's page is one contiguous run. read() and load() may
/// be called from any thread, several at once; they may block and may throw, and what they throw
/// reaches whoever waits for the recall. A page being read is not written at the same time: the
/// cache writes a page when it fills and reads it only after it left the window.
class SlowTier {
 public:
  virtual ~SlowTier() = default;

  /// Slot = logical page. Prefill writes its K and V here and attends to them in place.
  virtual KvPool pool() = 0;
  /// Copies one head of the complete page in `slot` of the fast tier: once per page and head.
  virtual void store(int32_t page, int head, const KvPool& from, int32_t slot) = 0;
  /// Copies one head's page, K then V, head_page_bytes() in all, to `out`.
  virtual void read(int32_t page, int head, std::byte* out) = 0;
  /// Brings one head's page into `slot` of a pool of any layout, in one pass.
  virtual void load(int32_t page, int head, const KvPool& to, int32_t slot) = 0;
  /// The same with the values only.
  virtual void load_values(int32_t page, int head, const KvPool& to, int32_t slot) = 0;
  /// Forgets all pages and gives their memory back.
  virtual void release() = 0;
};

}  // namespace freekv
