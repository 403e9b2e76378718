// Which logical page each selected slot of a head holds: bookkeeping only, no KV moves here.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace freekv {

/// A page that must be brought into a slot of the head it was planned for.
struct PageMove {
  int32_t page = 0;
  int32_t slot = 0;
  friend bool operator==(const PageMove&, const PageMove&) = default;
};

/// What pages are worth to a head, for choosing who leaves: values[i] is that of page first + i,
/// any other page is worth nothing. Without values the least recently used page leaves.
struct PageWorth {
  int32_t first = 0;
  std::span<const float> values;

  float of(int32_t page) const {
    const auto at = static_cast<size_t>(page - first);
    if (page < first || at >= values.size() || std::isnan(values[at]))
      return -std::numeric_limits<float>::infinity();
    return values[at];
  }
};

/// One per (sequence, layer): per head a map page <-> slot, the last use of each slot and pins.
/// Slots are counted from 0 here; the cache adds where they begin in its pool. Decide with plan(),
/// then commit(). All memory is taken by the constructor. Heads are independent of each other:
/// different heads may be used from different threads.
class PageTable {
 public:
  PageTable() = default;
  /// `slots` per head, for pages 0 <= page < max_pages.
  PageTable(int heads, int32_t slots, int32_t max_pages);

  int heads() const { return heads_; }
  int32_t slots() const { return slots_; }

  /// Slot i holds page first + i, for all heads and i < count; the other slots are empty.
  void assign_all(int32_t first, int32_t count);
  /// All slots empty, nothing pinned.
  void clear();

  /// -1 when the page is not resident in this head.
  int32_t slot_of(int head, int32_t page) const { return slot_of_page_[page_index(head, page)]; }
  /// -1 when the slot is empty.
  int32_t page_in(int head, int32_t slot) const { return page_in_slot_[slot_index(head, slot)]; }

  /// A pinned slot is in use by a recall or an attention under way; it is no victim and must not
  /// be evicted.
  void pin(int head, int32_t slot);
  void unpin(int head, int32_t slot);
  bool pinned(int head, int32_t slot) const { return pins_[slot_index(head, slot)] != 0; }

  /// Which of `pages` (distinct) are missing and the slots to bring them into, in the order of
  /// `pages`: empty slots first, then the slot of least worth, then the least recently used slot,
  /// whose page is not in `pages` and that is not pinned; of equals the lower slot. Returns how
  /// many of `moves` were filled; `moves` must have room for all pages. Changes nothing but scratch
  /// memory of this head. Throws Error(kInternal) when there are not enough slots.
  int32_t plan(int head, std::span<const int32_t> pages, std::span<PageMove> moves,
               const PageWorth& worth = {});

  /// Takes the plan as done: victims leave, moved pages are resident, and all of `pages` count as
  /// used now. `moves` must come from plan() of the same pages with nothing in between.
  void commit(int head, std::span<const int32_t> pages, std::span<const PageMove> moves);

  /// Forgets what `slot` holds, after a recall into it failed.
  void evict(int head, int32_t slot);

 private:
  size_t slot_index(int head, int32_t slot) const;
  size_t page_index(int head, int32_t page) const;

  int heads_ = 0;
  int32_t slots_ = 0;
  int32_t max_pages_ = 0;
  std::vector<int32_t> slot_of_page_;  // [heads][max_pages]
  std::vector<int32_t> page_in_slot_;  // [heads][slots]
  std::vector<uint64_t> last_use_;     // [heads][slots], 0 = never
  std::vector<uint8_t> pins_;          // [heads][slots]
  std::vector<int32_t> victims_;       // [heads][slots], scratch of plan()
  std::vector<uint8_t> wanted_;        // [heads][slots], scratch of plan()
  std::vector<uint64_t> clock_;        // [heads]
};

}  // namespace freekv
