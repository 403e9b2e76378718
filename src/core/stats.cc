#include <algorithm>
#include <utility>

#include "freekv/stats.hpp"

namespace freekv {
namespace {

/// Applies combine(mine, theirs) to every counter.
template <typename Combine>
void for_each_counter(RetrievalStats& mine, const RetrievalStats& theirs, Combine combine) {
  combine(mine.pages_selected, theirs.pages_selected);
  combine(mine.hits, theirs.hits);
  combine(mine.misses_before, theirs.misses_before);
  combine(mine.misses_after, theirs.misses_after);
  combine(mine.bytes_recalled, theirs.bytes_recalled);
  combine(mine.bytes_offloaded, theirs.bytes_offloaded);
  combine(mine.selections, theirs.selections);
  combine(mine.corrections_tested, theirs.corrections_tested);
  combine(mine.wait_ns, theirs.wait_ns);
  combine(mine.lost_mass_sum, theirs.lost_mass_sum);
  combine(mine.lost_mass_count, theirs.lost_mass_count);
  auto& layers = mine.drifted_by_layer;
  layers.resize(std::max(layers.size(), theirs.drifted_by_layer.size()));
  for (size_t i = 0; i < theirs.drifted_by_layer.size(); ++i) {
    combine(layers[i], theirs.drifted_by_layer[i]);
  }
}

}  // namespace

void RetrievalStats::add(const RetrievalStats& other) {
  for_each_counter(*this, other, [](auto& mine, auto theirs) { mine += theirs; });
}

void RetrievalStats::subtract(const RetrievalStats& earlier) {
  for_each_counter(*this, earlier, [](auto& mine, auto theirs) { mine -= theirs; });
}

void RetrievalStats::clear() {
  // Keeps the vector's memory: a sequence starts over without allocating.
  std::vector<uint64_t> layers = std::move(drifted_by_layer);
  std::fill(layers.begin(), layers.end(), 0);
  *this = {};
  drifted_by_layer = std::move(layers);
}

}  // namespace freekv
