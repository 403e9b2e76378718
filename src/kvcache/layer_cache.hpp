// The KV of one layer of one sequence: its fast tier, slow tier, sketches and page table.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backends/backend.hpp"
#include "core/function_ref.hpp"
#include "freekv/stats.hpp"
#include "kvcache/cache_config.hpp"
#include "kvcache/page_layout.hpp"
#include "kvcache/page_table.hpp"
#include "kvcache/recall.hpp"
#include "kvcache/sketch.hpp"
#include "kvcache/slow_tier.hpp"

namespace freekv {

/// Makes the slow tier of one (sequence, layer).
using SlowTierFactory =
    std::function<std::unique_ptr<SlowTier>(Backend&, const KvShape&, int32_t max_pages)>;

/// What a layer keeps, derived from CacheNeeds and the layer's index.
struct LayerPlan {
  bool budgeted = false;  // the fast tier holds sink, window and selected pages only
  bool slow = false;      // complete pages are also in the slow tier
  bool sketched = false;

  LayerPlan(const CacheConfig& config, const CacheNeeds& needs, int layer);
  int32_t fast_slots(const CacheConfig& config, const PageLayout& layout) const;
};

/// Used by one thread, as SequenceCache; what is said of heads may run for several at once.
class LayerCache {
 public:
  LayerCache(const CacheConfig& config, const CacheNeeds& needs, const PageLayout& layout,
             int layer, Backend& backend, const SlowTierFactory& make_slow);

  const LayerPlan& plan() const { return plan_; }
  const KvPool& fast() const { return fast_; }
  const SketchStore& sketches() const { return sketches_; }
  const PageTable& table() const { return table_; }
  /// Null unless the layer is budgeted.
  SlowTier* slow() { return slow_.get(); }

  // --- writing; `first` is the position of the first token given -------------------------------
  /// Where prefill writes and attends: slot = logical page.
  KvPool prefill_pool() { return plan_.budgeted ? slow_->pool() : fast_; }
  void append_chunk(ExecutionContext& ctx, int64_t first, std::span<const int32_t> page_slots,
                    View<const float, 3> k, View<const float, 3> v);
  /// Brings what decode needs after a prompt of `tokens` into the fast tier.
  void finish_prefill(ExecutionContext& ctx, int64_t tokens);
  /// Drops the prompt's pages that no tier keeps.
  void end_prefill();
  /// Takes the unfinished page back to where prefill writes, before a further prompt.
  void resume_prefill(int64_t tokens);
  void append_token(ExecutionContext& ctx, int64_t position, View<const float, 2> k,
                    View<const float, 2> v);
  /// SequenceCache::append_from() of the tokens from `first` on: `from` has `tokens` in all, and an
  /// unfinished page in its fast tier when `decoding`.
  void append_from(ExecutionContext& ctx, const LayerCache& from, int64_t tokens, bool decoding,
                   int64_t first, int64_t count);
  /// One head of a page that filled in decode: sketched and written to the slow tier.
  void page_filled(int head, int32_t page);
  void reset();

  // --- retrieval --------------------------------------------------------------------------------
  /// Slot of a sink, window or selected page; throws Error(kInternal) when it is not resident.
  int32_t resident_slot(int head, int32_t page, PageRange window) const;
  /// Decides which of the selected `pages` are missing and which pages leave for them, and takes
  /// it as done in the page table. Returns the misses, in `moves`, which the caller must recall;
  /// slots are the pool's. `moves` must have room for all pages. Heads are independent.
  std::span<PageMove> make_resident(int head, std::span<const int32_t> pages,
                                    std::span<PageMove> moves, const PageWorth& worth = {});
  /// Recalls misses of one head here and now. What fails is rethrown, its pages are forgotten.
  void recall_now(int head, std::span<const PageMove> moves);
  /// The same, but of pages that are `values_only` no keys: the caller writes them.
  void recall_now(int head, std::span<const PageMove> moves,
                  FunctionRef<bool(int32_t page)> values_only);
  /// The same for pages that left the window with the token under way: copied from the window's
  /// slots, where the next page will be written. For layers whose slow tier keeps nothing.
  void keep_now(int head, std::span<const PageMove> moves);
  /// Hands misses to the background job. Their slots are pinned until finish_recall().
  void recall_later(int head, std::span<const PageMove> moves);
  RecallJob* job() { return job_.get(); }
  /// Waits for what was submitted; returns nanoseconds. When the recall failed its pages are
  /// forgotten and the failure is rethrown.
  uint64_t finish_recall(ExecutionContext& ctx, RecallEngine& engine);
  /// Waits for it, whatever became of it: its pages are about to be forgotten.
  void abandon_recall(RecallEngine& engine) noexcept;

 private:
  void unpin_recalled();
  void build_sketches(ExecutionContext& ctx, int32_t first, int32_t last);

  KvShape shape_;
  PageLayout layout_;
  LayerPlan plan_;
  Backend& backend_;
  Buffer fast_memory_;
  KvPool fast_;
  SketchStore sketches_;
  PageTable table_;
  std::unique_ptr<SlowTier> slow_;
  std::unique_ptr<RecallJob> job_;
  std::vector<RecallItem> pinned_;  // items of the job under way, whose slots are pinned
};

}  // namespace freekv
