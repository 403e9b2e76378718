// Counters of retrieval. All are sums since the sequence began (or since reset()).
#pragma once

#include <cstdint>
#include <vector>

namespace freekv {

/// Relations, kept by every policy: pages_selected = hits + misses_before + misses_after, where a
/// page counts once per head and selection; bytes_recalled = bytes of all missed pages.
struct RetrievalStats {
  uint64_t pages_selected = 0;
  uint64_t hits = 0;           // selected and already in the fast tier
  uint64_t misses_before = 0;  // recalled while attention waited
  uint64_t misses_after = 0;   // recalled in the background, for the next step
  uint64_t bytes_recalled = 0;
  uint64_t bytes_offloaded = 0;            // written to the slow tier when pages filled
  uint64_t selections = 0;                 // (layer, head, step) selections made
  uint64_t corrections_tested = 0;         // (layer, head, step) drift tests made
  std::vector<uint64_t> drifted_by_layer;  // heads that failed their drift test
  uint64_t wait_ns =
      0;  // time attention waited for recall; 0 on a device, which has no clock for it
  // Attention mass on pages that a head did not attend to, as the policy estimates it: the sum
  // over (layer, head, step), and over how many. Policies that do not estimate it leave 0.
  double lost_mass_sum = 0;
  uint64_t lost_mass_count = 0;

  uint64_t drifted() const {
    uint64_t sum = 0;
    for (uint64_t n : drifted_by_layer) sum += n;
    return sum;
  }
  /// Mean estimate of the share of attention that a head lost in a step, 0 to 1.
  double lost_mass() const {
    return lost_mass_count == 0 ? 0 : lost_mass_sum / static_cast<double>(lost_mass_count);
  }
  /// Adds another sequence's counters.
  void add(const RetrievalStats& other);
  /// All zero, for as many layers as before.
  void clear();
  /// Takes away an earlier reading of the same counters.
  void subtract(const RetrievalStats& earlier);
};

/// Bytes held by the caches, by tier.
struct MemoryStats {
  uint64_t fast_kv_bytes = 0;  // slots of the fast tier
  uint64_t slow_kv_bytes = 0;  // pages of the slow tier
  uint64_t sketch_bytes = 0;   // sketches, and a device's page tables
};

}  // namespace freekv
