#include "backends/cpu/kv.hpp"

#include <hwy/cache_control.h>

#include <algorithm>
#include <cstring>

#include "backends/kv_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/kv.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/store_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

template <DType kType>
void store_tokens(View<const float, 3> x, const KvPool& pool, bool values,
                  std::span<const int32_t> slots, int64_t first, int64_t begin, int64_t end) {
  const KvShape& shape = pool.shape;
  // A token's heads lie side by side where the layout is token-major.
  const int runs = pool.layout == KvLayout::kNHD ? 1 : shape.heads;
  const size_t run = static_cast<size_t>(shape.heads) * static_cast<size_t>(shape.head_dim) /
                     static_cast<size_t>(runs);
  for (int64_t t = begin; t < end; ++t) {
    const int32_t slot = slots[static_cast<size_t>((first + t) / shape.page)];
    const size_t offset = static_cast<size_t>((first + t) % shape.page) * pool.token_stride();
    for (int head = 0; head < runs; ++head) {
      std::byte* row = (values ? pool.values(slot, head) : pool.keys(slot, head)) + offset;
      store_floats<kType>(x[t][head].data(), run, row);
    }
  }
}

void store_any(View<const float, 3> x, const KvPool& pool, bool values,
               std::span<const int32_t> slots, int64_t first, int64_t begin, int64_t end) {
  dispatch_kv_dtype(pool.shape.dtype, [&](auto type) {
    store_tokens<decltype(type)::value>(x, pool, values, slots, first, begin, end);
  });
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {
namespace {

// How far ahead of the copy a page's tokens are fetched: a page is too short for the hardware to
// get up to speed on its own.
constexpr int kAhead = 8;

// One half of a page, K or V. kBytes: a token's bytes where they are known, for an inlined copy.
template <size_t kBytes>
void copy_rows(const std::byte* from, size_t from_stride, std::byte* to, size_t to_stride,
               int tokens, size_t bytes) {
  const size_t size = kBytes != 0 ? kBytes : bytes;
  const auto fetch = [&](int t) {
    const std::byte* row = from + static_cast<size_t>(t) * from_stride;
    for (size_t b = 0; b < size; b += 64) hwy::Prefetch(row + b);
  };
  for (int t = 0; t < std::min(kAhead, tokens); ++t) fetch(t);
  for (int t = 0; t < tokens; ++t) {
    if (t + kAhead < tokens) fetch(t + kAhead);
    std::memcpy(to + static_cast<size_t>(t) * to_stride,
                from + static_cast<size_t>(t) * from_stride, size);
  }
}

using CopyRows = void (*)(const std::byte*, size_t, std::byte*, size_t, int, size_t);

CopyRows copy_rows_of(size_t bytes) {
  switch (bytes) {
    case 128:
      return copy_rows<128>;
    case 160:
      return copy_rows<160>;
    case 192:
      return copy_rows<192>;
    case 256:
      return copy_rows<256>;
    case 512:
      return copy_rows<512>;
    default:
      return copy_rows<0>;
  }
}

}  // namespace

HWY_EXPORT(store_any);

void append_kv(ExecutionContext& ctx, View<const float, 3> k, View<const float, 3> v,
               const KvPool& pool, std::span<const int32_t> slots, int first) {
  check_append(k, v, pool, slots, first);
  // Tokens that are written before another worker has woken.
  constexpr int64_t kGrain = 32;
  ctx.pool().parallel_for(k.shape(0), kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(store_any)(k, pool, false, slots, first, begin, end);
    HWY_DYNAMIC_DISPATCH(store_any)(v, pool, true, slots, first, begin, end);
  });
}

void copy_head_page(const KvPool& from, int32_t from_slot, const KvPool& to, int32_t to_slot,
                    int head) {
  check_copy(from, from_slot, to, to_slot, head);
  const size_t bytes = from.shape.token_bytes();
  const std::byte* source = from.keys(from_slot, head);
  std::byte* target = to.keys(to_slot, head);
  if (from.layout == KvLayout::kHND && to.layout == KvLayout::kHND) {
    std::memcpy(target, source, from.shape.head_page_bytes());
    return;
  }
  const CopyRows copy = copy_rows_of(bytes);
  copy(source, from.token_stride(), target, to.token_stride(), from.shape.page, bytes);
  copy(from.values(from_slot, head), from.token_stride(), to.values(to_slot, head),
       to.token_stride(), from.shape.page, bytes);
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
