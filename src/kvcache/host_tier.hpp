// The slow tier in host memory.
#pragma once

#include "backends/backend.hpp"
#include "device/buffer.hpp"
#include "kvcache/slow_tier.hpp"

namespace freekv {

class HostTier final : public SlowTier {
 public:
  /// Takes address space for `max_pages`; memory follows as pages are written.
  HostTier(Backend& backend, const KvShape& shape, int32_t max_pages);

  KvPool pool() override { return pool_; }
  void store(int32_t page, int head, const KvPool& from, int32_t slot) override;
  void read(int32_t page, int head, std::byte* out) override;
  void load(int32_t page, int head, const KvPool& to, int32_t slot) override;
  void load_values(int32_t page, int head, const KvPool& to, int32_t slot) override;
  void release() override { memory_.discard(); }

 private:
  Backend& backend_;
  Buffer memory_;
  KvPool pool_;
};

}  // namespace freekv
