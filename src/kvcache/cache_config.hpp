// Sizes of one sequence's KV cache, and what a policy asks of it, as data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backends/tensors.hpp"

namespace freekv {

/// Token counts that every policy shares (algorithm.md, section 1). `budget` = B, tokens attended
/// per step = sink + window + selected; `sink` = S and `window` = W are always attended.
/// Sink and window are rounded up to whole pages.
struct TokenBudget {
  int64_t budget = 2048;
  int64_t sink = 128;
  int64_t window = 128;
};

struct CacheConfig {
  int layers = 0;
  int query_heads = 0;  // H
  KvShape shape;        // M, d, p, dtype
  int64_t max_context = 0;
  TokenBudget tokens;
  size_t fast_limit_bytes = SIZE_MAX;  // --device-kv, for one sequence
  size_t slow_limit_bytes = SIZE_MAX;  // --host-kv, for one sequence

  int group() const { return query_heads / shape.heads; }
  int64_t max_pages() const { return (max_context + shape.page - 1) / shape.page; }
};

/// How head pages travel from the slow tier to slots of the fast tier (algorithm.md, section 5).
enum class RecallMechanism : uint8_t {
  kGather,    // one pass, straight from the slow pages into the slots
  kStreamed,  // copied into one of two staging buffers while the other is converted (FreeKV, 4.3)
};

/// What stays where. The cache allocates from this without knowing the method's name.
struct CacheNeeds {
  enum class Fast : uint8_t {
    kAll,     // every page of the sequence
    kBudget,  // sink, window and a selected set per head
  };
  Fast fast = Fast::kAll;
  // Complete pages also go to the slow tier, once. With kBudget the prompt passes through the slow
  // tier in any case and, without `slow`, is dropped when its prefill ends, after on_prefill.
  bool slow = false;
  // False: no pages are selected, and the window takes all that the sink leaves of the budget.
  bool selects = true;
  // The window takes at least this part of the budget, whatever TokenBudget says: below 1.
  double window_share = 0;
  // The last tokens of a prompt whose queries the policy is shown (Policy::on_queries).
  int64_t observed = 0;
  std::string sketch;    // a name of sketches/, empty for none
  int dense_layers = 0;  // the first layers keep and attend to all pages
  // With kBudget: [layers], 1 for layers whose fast tier holds every page nevertheless, because
  // some head attends to all of them. Empty for none.
  std::vector<uint8_t> whole_layers;
  double resident_factor = 1.0;  // fast-tier pages per head for selections, as a multiple of k
  int attended_selections = 1;   // most pages a head attends to for selections, as a multiple of k
  RecallMechanism recall = RecallMechanism::kGather;
};

}  // namespace freekv
