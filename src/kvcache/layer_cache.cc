#include "kvcache/layer_cache.hpp"

#include <algorithm>
#include <cstring>

#include "core/check.hpp"
#include "kvcache/host_tier.hpp"

namespace freekv {

namespace {

/// Copies the tokens [first, end), all of one page that begins with the token `page_begin` and
/// stands in `slot` of `from`, to where they stand in a pool whose slots are logical pages.
void copy_rows(const KvPool& from, int32_t slot, int64_t page_begin, const KvPool& to,
               int64_t first, int64_t end) {
  const size_t bytes = to.shape.token_bytes();
  for (int64_t t = first; t < end; ++t) {
    const size_t source = static_cast<size_t>(t - page_begin) * from.token_stride();
    const auto page = static_cast<int32_t>(t / to.shape.page);
    const size_t target = static_cast<size_t>(t % to.shape.page) * to.token_stride();
    for (int h = 0; h < to.shape.heads; ++h) {
      std::memcpy(to.keys(page, h) + target, from.keys(slot, h) + source, bytes);
      std::memcpy(to.values(page, h) + target, from.values(slot, h) + source, bytes);
    }
  }
}

}  // namespace

LayerPlan::LayerPlan(const CacheConfig& config, const CacheNeeds& needs, int layer) {
  const bool dense = layer < needs.dense_layers || config.max_context <= config.tokens.budget;
  const bool whole =
      !needs.whole_layers.empty() && needs.whole_layers[static_cast<size_t>(layer)] != 0;
  budgeted = !dense && !whole && needs.fast == CacheNeeds::Fast::kBudget;
  slow = budgeted && needs.slow;
  sketched = !dense && !needs.sketch.empty();
}

int32_t LayerPlan::fast_slots(const CacheConfig& config, const PageLayout& layout) const {
  return budgeted ? layout.budget_slots() : static_cast<int32_t>(config.max_pages());
}

LayerCache::LayerCache(const CacheConfig& config, const CacheNeeds& needs, const PageLayout& layout,
                       int layer, Backend& backend, const SlowTierFactory& make_slow)
    : shape_(config.shape),
      layout_(layout),
      plan_(config, needs, layer),
      backend_(backend),
      fast_memory_(shape_.slot_bytes() * static_cast<size_t>(plan_.fast_slots(config, layout))),
      fast_{fast_memory_.data(), shape_, KvLayout::kNHD, plan_.fast_slots(config, layout)} {
  const auto max_pages = static_cast<int32_t>(config.max_pages());
  if (plan_.sketched) sketches_ = SketchStore(find_sketch(needs.sketch), shape_, max_pages);
  if (!plan_.budgeted) return;
  slow_ = make_slow ? make_slow(backend, shape_, max_pages)
                    : std::make_unique<HostTier>(backend, shape_, max_pages);
  table_ = PageTable(shape_.heads, layout_.resident(), max_pages);
  const auto max_items =
      static_cast<size_t>(shape_.heads) * static_cast<size_t>(layout_.selected());
  job_ = std::make_unique<RecallJob>(backend, *slow_, fast_, needs.recall, max_items);
  pinned_.reserve(max_items);
  reset();
}

void LayerCache::reset() {
  if (!plan_.budgeted) return;
  // As long as everything fits, page i stands in slot i of all heads; the selected slots then hold
  // the first pages after the sink, and that is what they hold when the budget is exceeded.
  table_.assign_all(layout_.sink_pages(), layout_.selected());
}

void LayerCache::build_sketches(ExecutionContext& ctx, int32_t first, int32_t last) {
  if (!plan_.sketched || first >= last) return;
  const KvPool pool = prefill_pool();
  ctx.pool().parallel_for(
      int64_t{last - first} * shape_.heads, shape_.heads, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          const auto page = static_cast<int32_t>(first + i / shape_.heads);
          sketches_.build(backend_, pool, page, static_cast<int>(i % shape_.heads), page);
        }
      });
}

void LayerCache::append_chunk(ExecutionContext& ctx, int64_t first,
                              std::span<const int32_t> page_slots, View<const float, 3> k,
                              View<const float, 3> v) {
  const int64_t end = first + k.shape(0);
  const int32_t page = layout_.complete_pages(first);
  const auto slots =
      page_slots.subspan(static_cast<size_t>(page), static_cast<size_t>(layout_.pages(end) - page));
  backend_.append_kv(ctx, k, v, prefill_pool(), slots, static_cast<int>(first % layout_.page()));
  build_sketches(ctx, page, layout_.complete_pages(end));
}

void LayerCache::finish_prefill(ExecutionContext& ctx, int64_t tokens) {
  if (!plan_.budgeted) return;
  const bool over = layout_.over_budget(tokens);
  const int32_t head_pages = over ? layout_.sink_pages() : layout_.pages(tokens);
  const PageRange tail = over ? layout_.window(tokens) : PageRange{};
  const int64_t copies = int64_t{head_pages + tail.size()} * shape_.heads;
  ctx.pool().parallel_for(copies, shape_.heads, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const auto at = static_cast<int32_t>(i / shape_.heads);
      const int32_t page = at < head_pages ? at : tail.first + at - head_pages;
      slow_->load(page, static_cast<int>(i % shape_.heads), fast_, layout_.common_slot(page));
    }
  });
  if (over) {
    table_.clear();
  } else {
    table_.assign_all(layout_.sink_pages(), layout_.selected());
  }
}

void LayerCache::end_prefill() {
  if (plan_.budgeted && !plan_.slow) slow_->release();
}

void LayerCache::resume_prefill(int64_t tokens) {
  if (!plan_.budgeted) return;
  check_argument(plan_.slow,
                 "this policy dropped the prompt's KV after prefill, so no further prompt of "
                 "position {} can be appended",
                 tokens);
  if (tokens % layout_.page() == 0) return;
  const int32_t page = layout_.complete_pages(tokens);
  for (int head = 0; head < shape_.heads; ++head) {
    slow_->store(page, head, fast_, layout_.common_slot(page));
  }
}

void LayerCache::append_token(ExecutionContext& ctx, int64_t position, View<const float, 2> k,
                              View<const float, 2> v) {
  const int32_t page = layout_.complete_pages(position);
  const int32_t slot = plan_.budgeted ? layout_.common_slot(page) : page;
  backend_.append_kv(ctx, View<const float, 3>(k.data(), 1, k.shape(0), k.shape(1)),
                     View<const float, 3>(v.data(), 1, v.shape(0), v.shape(1)), fast_,
                     std::span(&slot, 1), static_cast<int>(position % layout_.page()));
}

void LayerCache::append_from(ExecutionContext& ctx, const LayerCache& from, int64_t tokens,
                             bool decoding, int64_t first, int64_t count) {
  const int64_t end = first + count;
  const int page_tokens = from.layout_.page();  // the pages of the two may differ in size
  const int32_t first_page = from.layout_.complete_pages(first);
  const int32_t complete = from.layout_.complete_pages(tokens);
  const KvPool to = prefill_pool();
  ctx.pool().parallel_for(
      from.layout_.pages(end) - first_page, 1, [&](int64_t begin, int64_t last, int) {
        Buffer page_memory(from.plan_.budgeted ? from.shape_.slot_bytes() : 0);
        for (auto page = static_cast<int32_t>(first_page + begin); page < first_page + last;
             ++page) {
          KvPool pool = from.fast_;
          int32_t slot = from.plan_.budgeted ? from.layout_.common_slot(page) : page;
          if (from.plan_.budgeted && (page < complete || !decoding)) {
            pool = {page_memory.data(), from.shape_, KvLayout::kHND, 1};
            slot = 0;
            for (int h = 0; h < shape_.heads; ++h) from.slow_->read(page, h, pool.keys(0, h));
          }
          const int64_t page_begin = int64_t{page} * page_tokens;
          copy_rows(pool, slot, page_begin, to, std::max(first, page_begin),
                    std::min(end, page_begin + page_tokens));
        }
      });
  build_sketches(ctx, layout_.complete_pages(first), layout_.complete_pages(end));
}

void LayerCache::page_filled(int head, int32_t page) {
  const int32_t slot = plan_.budgeted ? layout_.common_slot(page) : page;
  if (plan_.sketched) sketches_.build(backend_, fast_, slot, head, page);
  if (plan_.slow) slow_->store(page, head, fast_, slot);
}

int32_t LayerCache::resident_slot(int head, int32_t page, PageRange window) const {
  if (!plan_.budgeted) return page;
  if (page < layout_.sink_pages() || page >= window.first) return layout_.common_slot(page);
  const int32_t slot = table_.slot_of(head, page);
  check_internal(slot >= 0, "page {} of head {} is attended but not resident", page, head);
  return slot + layout_.first_selected_slot();
}

std::span<PageMove> LayerCache::make_resident(int head, std::span<const int32_t> pages,
                                              std::span<PageMove> moves, const PageWorth& worth) {
  if (!plan_.budgeted) return {};
  const auto misses = static_cast<size_t>(table_.plan(head, pages, moves, worth));
  table_.commit(head, pages, moves.first(misses));
  for (PageMove& move : moves.first(misses)) move.slot += layout_.first_selected_slot();
  return moves.first(misses);
}

void LayerCache::recall_now(int head, std::span<const PageMove> moves) {
  recall_now(head, moves, [](int32_t) { return false; });
}

void LayerCache::recall_now(int head, std::span<const PageMove> moves,
                            FunctionRef<bool(int32_t)> values_only) {
  try {
    for (const PageMove& move : moves) {
      if (values_only(move.page)) {
        slow_->load_values(move.page, head, fast_, move.slot);
      } else {
        slow_->load(move.page, head, fast_, move.slot);
      }
    }
  } catch (...) {
    for (const PageMove& move : moves) {
      table_.evict(head, move.slot - layout_.first_selected_slot());
    }
    throw;
  }
}

void LayerCache::keep_now(int head, std::span<const PageMove> moves) {
  for (const PageMove& move : moves) {
    backend_.copy_head_page(fast_, layout_.common_slot(move.page), fast_, move.slot, head);
  }
}

void LayerCache::recall_later(int head, std::span<const PageMove> moves) {
  for (const PageMove& move : moves) {
    const RecallItem item{head, move.page, move.slot};
    job_->add(item);
    pinned_.push_back(item);
    table_.pin(head, move.slot - layout_.first_selected_slot());
  }
}

void LayerCache::unpin_recalled() {
  for (const RecallItem& item : pinned_) {
    table_.unpin(item.head, item.slot - layout_.first_selected_slot());
  }
}

uint64_t LayerCache::finish_recall(ExecutionContext& ctx, RecallEngine& engine) {
  if (pinned_.empty()) return 0;
  uint64_t waited = 0;
  try {
    waited = engine.wait(ctx, *job_);
  } catch (...) {
    unpin_recalled();
    for (const RecallItem& item : pinned_) {
      table_.evict(item.head, item.slot - layout_.first_selected_slot());
    }
    pinned_.clear();
    job_->clear();
    throw;
  }
  unpin_recalled();
  pinned_.clear();
  return waited;
}

void LayerCache::abandon_recall(RecallEngine& engine) noexcept {
  if (pinned_.empty()) return;
  try {
    engine.wait(*job_);
  } catch (...) {
    // The caller of a step that needed these pages would have been told; nobody needs them now.
    job_->clear();
  }
  unpin_recalled();
  pinned_.clear();
}

}  // namespace freekv
