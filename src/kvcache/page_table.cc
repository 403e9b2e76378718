#include "kvcache/page_table.hpp"

#include <algorithm>

#include "core/check.hpp"

namespace freekv {

PageTable::PageTable(int heads, int32_t slots, int32_t max_pages)
    : heads_(heads), slots_(slots), max_pages_(max_pages) {
  const auto per_slot = static_cast<size_t>(heads) * static_cast<size_t>(slots);
  slot_of_page_.assign(static_cast<size_t>(heads) * static_cast<size_t>(max_pages), -1);
  page_in_slot_.assign(per_slot, -1);
  last_use_.assign(per_slot, 0);
  pins_.assign(per_slot, 0);
  victims_.assign(per_slot, 0);
  wanted_.assign(per_slot, 0);
  clock_.assign(static_cast<size_t>(heads), 0);
}

size_t PageTable::slot_index(int head, int32_t slot) const {
  check_internal(head >= 0 && head < heads_ && slot >= 0 && slot < slots_,
                 "slot {} of head {}, must be below {} of {}", slot, head, slots_, heads_);
  return static_cast<size_t>(head) * static_cast<size_t>(slots_) + static_cast<size_t>(slot);
}

size_t PageTable::page_index(int head, int32_t page) const {
  check_internal(head >= 0 && head < heads_ && page >= 0 && page < max_pages_,
                 "page {} of head {}, must be below {} of {}", page, head, max_pages_, heads_);
  return static_cast<size_t>(head) * static_cast<size_t>(max_pages_) + static_cast<size_t>(page);
}

void PageTable::clear() {
  // Only what is resident is undone: the tables are as long as the context.
  for (int head = 0; head < heads_; ++head) {
    for (int32_t slot = 0; slot < slots_; ++slot) {
      pins_[slot_index(head, slot)] = 0;
      evict(head, slot);
      last_use_[slot_index(head, slot)] = 0;
    }
    clock_[static_cast<size_t>(head)] = 0;
  }
}

void PageTable::assign_all(int32_t first, int32_t count) {
  clear();
  check_internal(count <= slots_, "{} pages for {} slots", count, slots_);
  for (int head = 0; head < heads_; ++head) {
    for (int32_t i = 0; i < count; ++i) {
      slot_of_page_[page_index(head, first + i)] = i;
      page_in_slot_[slot_index(head, i)] = first + i;
    }
  }
}

void PageTable::pin(int head, int32_t slot) {
  uint8_t& pins = pins_[slot_index(head, slot)];
  check_internal(pins < 255, "slot {} of head {} is pinned 255 times", slot, head);
  ++pins;
}

void PageTable::unpin(int head, int32_t slot) {
  uint8_t& pins = pins_[slot_index(head, slot)];
  check_internal(pins > 0, "slot {} of head {} is not pinned", slot, head);
  --pins;
}

void PageTable::evict(int head, int32_t slot) {
  const size_t at = slot_index(head, slot);
  check_internal(pins_[at] == 0, "slot {} of head {} is pinned", slot, head);
  if (page_in_slot_[at] < 0) return;
  slot_of_page_[page_index(head, page_in_slot_[at])] = -1;
  page_in_slot_[at] = -1;
}

int32_t PageTable::plan(int head, std::span<const int32_t> pages, std::span<PageMove> moves,
                        const PageWorth& worth) {
  check_internal(moves.size() >= pages.size(), "{} moves for {} pages", moves.size(), pages.size());
  const size_t base = static_cast<size_t>(head) * static_cast<size_t>(slots_);
  uint8_t* wanted = wanted_.data() + base;
  std::fill_n(wanted, slots_, uint8_t{0});
  int32_t misses = 0;
  for (const int32_t page : pages) {
    const int32_t slot = slot_of(head, page);
    if (slot >= 0) {
      wanted[slot] = 1;
    } else {
      moves[static_cast<size_t>(misses++)].page = page;
    }
  }
  if (misses == 0) return 0;
  int32_t* victims = victims_.data() + base;
  int32_t free = 0;
  for (int32_t slot = 0; slot < slots_; ++slot) {
    if (!wanted[slot] && !pins_[base + static_cast<size_t>(slot)]) victims[free++] = slot;
  }
  check_internal(misses <= free, "head {} misses {} pages, only {} of {} slots can be taken", head,
                 misses, free, slots_);
  const auto older = [&](int32_t a, int32_t b) {
    const size_t i = base + static_cast<size_t>(a);
    const size_t j = base + static_cast<size_t>(b);
    const bool a_used = page_in_slot_[i] >= 0;
    const bool b_used = page_in_slot_[j] >= 0;
    if (a_used != b_used) return b_used;
    if (a_used) {
      const float a_worth = worth.of(page_in_slot_[i]), b_worth = worth.of(page_in_slot_[j]);
      if (a_worth != b_worth) return a_worth < b_worth;
    }
    return last_use_[i] != last_use_[j] ? last_use_[i] < last_use_[j] : a < b;
  };
  std::partial_sort(victims, victims + misses, victims + free, older);
  for (int32_t i = 0; i < misses; ++i) moves[static_cast<size_t>(i)].slot = victims[i];
  return misses;
}

void PageTable::commit(int head, std::span<const int32_t> pages, std::span<const PageMove> moves) {
  for (const PageMove& move : moves) {
    evict(head, move.slot);
    slot_of_page_[page_index(head, move.page)] = move.slot;
    page_in_slot_[slot_index(head, move.slot)] = move.page;
  }
  const uint64_t now = ++clock_[static_cast<size_t>(head)];
  for (const int32_t page : pages) {
    const int32_t slot = slot_of(head, page);
    check_internal(slot >= 0, "page {} of head {} is used but not resident", page, head);
    last_use_[slot_index(head, slot)] = now;
  }
}

}  // namespace freekv
