// The KV cache of one sequence: both tiers of every layer, its page bookkeeping and sketches.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "backends/backend.hpp"
#include "freekv/stats.hpp"
#include "kvcache/cache_config.hpp"
#include "kvcache/layer_cache.hpp"
#include "kvcache/page_layout.hpp"
#include "kvcache/recall.hpp"

namespace freekv {

/// What a cache borrows from the engine around it; all of it may be left out.
struct CacheServices {
  /// Shared by the sequences of an engine. Null: a cache that recalls starts one of its own.
  std::shared_ptr<RecallEngine> recall;
  /// Null: host memory.
  SlowTierFactory make_slow;
};

/// Used by one thread at a time; recall runs behind it on threads of its own. All memory is taken
/// by the constructor, which throws Error(kOutOfMemory) with both byte counts when a limit is too
/// small; nothing is allocated afterwards.
class SequenceCache {
 public:
  SequenceCache(const CacheConfig& config, const CacheNeeds& needs, Backend& backend,
                CacheServices services = {});
  ~SequenceCache();
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;

  const CacheConfig& config() const;
  const CacheNeeds& needs() const;

  /// Tokens whose KV is complete in all layers, not counting the one of a step under way.
  int64_t tokens() const;

  // --- prefill: for each chunk, for each layer: append, then attention over what is returned ----
  /// Appends k, v [T, M, d] of the chunk at tokens() to `layer` and returns pool and slots to
  /// attend to, sink to now, in PrefillAttention's terms. May follow decode steps (a further
  /// prompt), unless the policy dropped the first one's KV: Error(kInvalidArgument).
  struct PrefillPages {
    KvPool pool;
    std::span<const int32_t> slots;
  };
  PrefillPages append_chunk(ExecutionContext& ctx, int layer, View<const float, 3> k,
                            View<const float, 3> v);
  /// The same of the tokens() that are there, between two chunks.
  PrefillPages prefill_pages(int layer);
  /// All layers have the chunk of `count` tokens.
  void commit_chunk(int64_t count);
  /// After the last chunk: sketches, and what decode needs in the fast tier.
  void finish_prefill(ExecutionContext& ctx);
  /// The policy has seen the prompt: what no tier keeps of it is dropped.
  void end_prefill();

  // --- decode: for each layer append_token, then the policy; then commit_token ------------------
  /// Appends k, v [M, d] of the token at tokens() to the current page of `layer`.
  void append_token(ExecutionContext& ctx, int layer, View<const float, 2> k,
                    View<const float, 2> v);
  /// The step is over: tokens() grows by one; a page that filled is sketched and offloaded once.
  void commit_token(ExecutionContext& ctx);

  // --- what policies work on; T = tokens() + 1 counts the token of the step under way -----------
  const PageLayout& layout() const;
  LayerCache& layer(int layer);
  /// Whether `layer` selects pages in this step: T > B, and the layer is not dense.
  bool retrieves(int layer) const;
  /// Every page so far, for one head.
  AttentionRow dense_row(int layer, int head) const;
  /// Sink, `pages` (ascending candidates, resident in this head) and window, in order of pages.
  /// The slots are written to `slots`, which must have room for layout().attended_pages() and
  /// stay as it is until attention has run.
  AttentionRow sparse_row(int layer, int head, std::span<const int32_t> pages,
                          std::span<int32_t> slots) const;
  /// Starts what was handed to the layer's recall_later(); returns at once.
  void submit_recall(int layer);
  /// Waits for it, counts the time in stats().wait_ns and rethrows what failed.
  void finish_recall(ExecutionContext& ctx, int layer);

  /// Whether the KV of all tokens() is still somewhere: not so once a policy dropped the prompt's.
  bool keeps_all() const;
  /// Appends the next `count` tokens with the KV that another cache has of them, in whichever tier
  /// and with whatever page size, as it is stored: equal to append_chunk() of these tokens in every
  /// layer and commit_chunk(). Shapes must be the same but for the page. Throws
  /// Error(kInvalidArgument) when the other dropped them or has no such tokens. May allocate.
  void append_from(ExecutionContext& ctx, const SequenceCache& from, int64_t count);

  /// Keeps the first `tokens` only, ready for a further prompt after them; counters begin anew.
  /// Throws Error(kInvalidArgument) unless keeps_all() and there are as many.
  void truncate(ExecutionContext& ctx, int64_t tokens);
  /// Forgets everything: equal to a fresh cache.
  void reset();

  RetrievalStats& stats();
  const RetrievalStats& stats() const;
  MemoryStats memory() const;

 private:
  /// Before a further prompt: what decode keeps elsewhere goes back to where prefill writes.
  void resume_prefill(ExecutionContext& ctx);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace freekv
