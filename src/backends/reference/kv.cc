#include "backends/reference/kv.hpp"

#include <cstring>

#include "backends/kv_checks.hpp"

namespace freekv::reference {

void append_kv(ExecutionContext&, View<const float, 3> k, View<const float, 3> v,
               const KvPool& pool, std::span<const int32_t> slots, int first) {
  check_append(k, v, pool, slots, first);
  const KvShape& shape = pool.shape;
  for (int64_t t = 0; t < k.shape(0); ++t) {
    const int32_t slot = slots[static_cast<size_t>((first + t) / shape.page)];
    const size_t offset = static_cast<size_t>((first + t) % shape.page) * pool.token_stride();
    for (int head = 0; head < shape.heads; ++head) {
      std::byte* key = pool.keys(slot, head) + offset;
      std::byte* value = pool.values(slot, head) + offset;
      for (int e = 0; e < shape.head_dim; ++e) {
        store_element(shape.dtype, key, e, k[t][head][e]);
        store_element(shape.dtype, value, e, v[t][head][e]);
      }
    }
  }
}

void copy_head_page(const KvPool& from, int32_t from_slot, const KvPool& to, int32_t to_slot,
                    int head) {
  check_copy(from, from_slot, to, to_slot, head);
  const size_t bytes = from.shape.token_bytes();
  for (int t = 0; t < from.shape.page; ++t) {
    const size_t source = static_cast<size_t>(t) * from.token_stride();
    const size_t target = static_cast<size_t>(t) * to.token_stride();
    std::memcpy(to.keys(to_slot, head) + target, from.keys(from_slot, head) + source, bytes);
    std::memcpy(to.values(to_slot, head) + target, from.values(from_slot, head) + source, bytes);
  }
}

}  // namespace freekv::reference
