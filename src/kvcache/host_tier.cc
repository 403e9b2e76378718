#include "kvcache/host_tier.hpp"

#include <cstring>

#include "core/check.hpp"

namespace freekv {

HostTier::HostTier(Backend& backend, const KvShape& shape, int32_t max_pages)
    : backend_(backend),
      memory_(shape.slot_bytes() * static_cast<size_t>(max_pages)),
      pool_{memory_.data(), shape, KvLayout::kHND, max_pages} {}

void HostTier::store(int32_t page, int head, const KvPool& from, int32_t slot) {
  backend_.copy_head_page(from, slot, pool_, page, head);
}

void HostTier::read(int32_t page, int head, std::byte* out) {
  check_internal(page >= 0 && page < pool_.slots && head >= 0 && head < pool_.shape.heads,
                 "page {} of head {}, the slow tier has {} of {}", page, head, pool_.slots,
                 pool_.shape.heads);
  std::memcpy(out, pool_.keys(page, head), pool_.shape.head_page_bytes());
}

void HostTier::load(int32_t page, int head, const KvPool& to, int32_t slot) {
  backend_.copy_head_page(pool_, page, to, slot, head);
}

void HostTier::load_values(int32_t page, int head, const KvPool& to, int32_t slot) {
  const std::byte* from = pool_.values(page, head);
  std::byte* out = to.values(slot, head);
  const size_t bytes = pool_.shape.token_bytes();
  for (int t = 0; t < pool_.shape.page; ++t) {
    std::memcpy(out, from, bytes);
    from += pool_.token_stride();
    out += to.token_stride();
  }
}

}  // namespace freekv
