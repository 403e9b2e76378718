// Retrieval written down again from algorithm.md, sections 2 to 4 and 6, in plain loops over the
// plain copy of the KV: no sketches kept, no tiers, no slots, nothing shared with the library but
// the attention operation, so that equal page sets give equal bits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "driver.hpp"
#include "freekv/stats.hpp"

namespace freekv::invariants {

/// Attention mass that pages are chosen by: none, of keys of 2 bits, or of the keys themselves;
/// sink and window exact in both.
enum class NaiveMass : uint8_t { kNone, kKey2, kExact };

struct NaiveOptions {
  bool selects = true;  // false: what the sink leaves of the budget is the window
  bool cuboid = false;
  Pooling pooling = Pooling::kMeanSoftmax;
  int dense_layers = 0;
  double tau = 2;  // above 1: always with the current query
  /// The first step's pages come from nowhere, or from where they stood while everything fitted.
  bool recalls = true;
  NaiveMass mass = NaiveMass::kNone;
  /// Not negative: correction by what is missing, section 6, instead of by tau.
  double epsilon = -1;
  double resident = 1;  // for correction by what is missing
  /// There: pages that are not attended to count with their mass and mean value.
  bool values = false;
};

struct NaiveResult {
  std::vector<std::vector<float>> outputs;  // of the steps
  RetrievalStats stats;  // of correction by tau: with a resident set no wider than the selection
};

/// `prompt` tokens, then steps.
NaiveResult run_naive(const Scenario& setup, const NaiveOptions& options, uint64_t seed,
                      int64_t prompt, int steps);

}  // namespace freekv::invariants
