// Which logical pages are sink, candidates and window, and which slots of the fast tier they use.
//
// Slots of a layer that holds a budget only:  [ sink | selected, per head | ring of the window ].
// Sink and window pages have the same slot in all heads, because the projection writes a token of
// all heads at once; the slots between them hold another page in each head.
#pragma once

#include <cstdint>

#include "kvcache/cache_config.hpp"

namespace freekv {

/// Logical pages [first, last).
struct PageRange {
  int32_t first = 0;
  int32_t last = 0;

  int32_t size() const { return last > first ? last - first : 0; }
};

/// Throws Error(kInvalidArgument) unless `tokens` holds sink + window + one page, each rounded up
/// to whole pages, and neither is negative.
void check_budget(const TokenBudget& tokens, int page);

/// Pure arithmetic of algorithm.md, section 1, in pages. T counts the current token.
class PageLayout {
 public:
  PageLayout() = default;
  /// Checks the budget as check_budget().
  PageLayout(const CacheConfig& config, const CacheNeeds& needs);

  int page() const { return page_; }
  int32_t sink_pages() const { return sink_; }
  /// Whole pages that the window always covers; with an unfinished page it touches one more.
  int32_t window_pages() const { return window_; }
  /// k: pages selected per head.
  int32_t selected() const { return selected_; }
  /// Slots per head that hold selected pages, at least k.
  int32_t resident() const { return resident_; }

  int32_t pages(int64_t tokens) const { return static_cast<int32_t>((tokens + page_ - 1) / page_); }
  int32_t complete_pages(int64_t tokens) const { return static_cast<int32_t>(tokens / page_); }
  /// A layer that retrieves attends to all pages while T <= B.
  bool over_budget(int64_t tokens) const { return tokens > budget_; }
  /// First page of the window; never inside the sink.
  int32_t window_begin(int64_t tokens) const;
  /// Complete pages that are neither sink nor window.
  PageRange candidates(int64_t tokens) const { return {sink_, window_begin(tokens)}; }
  /// All pages from the window's first to the current one.
  PageRange window(int64_t tokens) const { return {window_begin(tokens), pages(tokens)}; }

  // --- the slots of a layer that holds a budget only --------------------------------------------
  int32_t budget_slots() const { return sink_ + resident_ + ring(); }
  int32_t first_selected_slot() const { return sink_; }
  /// Where a page stands in all heads alike: any page while T <= B, later sink and window.
  int32_t common_slot(int32_t page) const {
    const int32_t direct = sink_ + selected_;
    return page < direct ? page : sink_ + resident_ + (page - direct) % ring();
  }
  /// Most pages one head attends to in a step.
  int32_t attended_pages() const { return sink_ + attended_selected_ + ring(); }
  /// Of them, selected ones: k, or what a policy attends to beside the selection as well.
  int32_t attended_selected() const { return attended_selected_; }

 private:
  int32_t ring() const { return window_ + 1; }

  int page_ = 1;
  int64_t budget_ = 0;
  int32_t sink_ = 0;
  int32_t window_ = 1;
  int32_t selected_ = 0;
  int32_t resident_ = 0;
  int32_t attended_selected_ = 0;
};

}  // namespace freekv
