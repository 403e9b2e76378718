// Writing and moving KV with SIMD. Contracts: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"

namespace freekv::cpu {

void append_kv(ExecutionContext& ctx, View<const float, 3> k, View<const float, 3> v,
               const KvPool& pool, std::span<const int32_t> slots, int first);
void copy_head_page(const KvPool& from, int32_t from_slot, const KvPool& to, int32_t to_slot,
                    int head);

}  // namespace freekv::cpu
