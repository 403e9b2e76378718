// The KV cache of one sequence: both tiers of every layer, its page bookkeeping and sketches.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "backends/backend.hpp"
#include "freekv/stats.hpp"
#include "kvcache/cache_config.hpp"

namespace freekv {

/// Used by one thread at a time; recall runs behind it on threads of its own. All memory is taken
/// by the constructor, which throws Error(kOutOfMemory) with both byte counts when a limit is too
/// small; nothing is allocated afterwards.
class SequenceCache {
 public:
  SequenceCache(const CacheConfig& config, const CacheNeeds& needs, Backend& backend);
  ~SequenceCache();
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;

  const CacheConfig& config() const;
  const CacheNeeds& needs() const;

  /// Tokens whose KV is complete in all layers, not counting the one of a step under way.
  int64_t tokens() const;

  // --- prefill: for each chunk, for each layer: append, then attention over what is returned ----
  /// Appends k, v [T, M, d] of the chunk at tokens() to `layer` and returns pool and slots to
  /// attend to, sink to now, in PrefillAttention's terms.
  struct PrefillPages {
    KvPool pool;
    std::span<const int32_t> slots;
  };
  PrefillPages append_chunk(ExecutionContext& ctx, int layer, View<const float, 3> k,
                            View<const float, 3> v);
  /// All layers have the chunk of `count` tokens.
  void commit_chunk(int64_t count);
  /// After the last chunk: sketches, and what decode needs in the fast tier.
  void finish_prefill(ExecutionContext& ctx);

  // --- decode: for each layer append_token, then the policy; then commit_token ------------------
  /// Appends k, v [M, d] of the token at tokens() to the current page of `layer`.
  void append_token(ExecutionContext& ctx, int layer, View<const float, 2> k,
                    View<const float, 2> v);
  /// The step is over: tokens() grows by one; a page that filled is sketched and offloaded once.
  void commit_token(ExecutionContext& ctx);

  /// Forgets everything: equal to a fresh cache.
  void reset();

  RetrievalStats& stats();
  MemoryStats memory() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace freekv
