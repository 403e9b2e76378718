#include "kvcache/page_layout.hpp"

#include <algorithm>
#include <cmath>

#include "core/check.hpp"

namespace freekv {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 30;

int64_t whole_pages(int64_t tokens, int page) { return (tokens + page - 1) / page; }

// The current token is always attended, hence a window of at least one page.
int64_t rounded_window(const TokenBudget& tokens, int page) {
  return std::max<int64_t>(1, whole_pages(tokens.window, page));
}

}  // namespace

void check_budget(const TokenBudget& tokens, int page) {
  check_argument(page >= 1, "page is {} tokens, must be at least 1", page);
  check_argument(tokens.sink >= 0 && tokens.sink <= kMaxTokens, "sink is {}, must be 0 to {}",
                 tokens.sink, kMaxTokens);
  check_argument(tokens.window >= 0 && tokens.window <= kMaxTokens, "window is {}, must be 0 to {}",
                 tokens.window, kMaxTokens);
  const int64_t least = (whole_pages(tokens.sink, page) + rounded_window(tokens, page) + 1) * page;
  check_argument(tokens.budget >= least,
                 "budget is {}, must be at least sink + window + one page = {}", tokens.budget,
                 least);
}

PageLayout::PageLayout(const CacheConfig& config, const CacheNeeds& needs)
    : page_(config.shape.page), budget_(config.tokens.budget) {
  check_budget(config.tokens, page_);
  check_argument(needs.resident_factor >= 1 && needs.resident_factor <= 1024,
                 "resident is {}, must be 1 to 1024", needs.resident_factor);
  // A budget beyond the longest context never selects; sizes follow the context then.
  const int64_t budget_pages = std::min<int64_t>(budget_ / page_, kMaxTokens / page_);
  sink_ = static_cast<int32_t>(whole_pages(config.tokens.sink, page_));
  const auto share = static_cast<int64_t>(needs.window_share * static_cast<double>(budget_pages));
  const int64_t window =
      std::max(rounded_window(config.tokens, page_), std::min(share, budget_pages - sink_ - 1));
  window_ = static_cast<int32_t>(needs.selects ? window : budget_pages - sink_);
  selected_ = static_cast<int32_t>(budget_pages - sink_ - window_);
  const double resident = std::ceil(needs.resident_factor * selected_);
  // More slots than there are pages to select would stay empty.
  const double useful = static_cast<double>(std::max<int64_t>(config.max_pages(), selected_));
  resident_ = static_cast<int32_t>(std::min(resident, useful));
  attended_selected_ = std::min(resident_, needs.attended_selections * selected_);
}

int32_t PageLayout::window_begin(int64_t tokens) const {
  const int64_t first = (tokens - int64_t{window_} * page_) / page_;
  return std::max(sink_, static_cast<int32_t>(std::max<int64_t>(first, 0)));
}

}  // namespace freekv
