// What a retrieval method is to a device that runs it without the host, as data: a policy states it
// (Policy::device_rule), the device's decoder follows it.
#pragma once

#include <cstdint>

#include "backends/tensors.hpp"

namespace freekv {

/// The default is dense attention. Sketches are minmax (algorithm.md, section 2).
struct RetrievalRule {
  bool budgeted = false;  // the fast tier holds sink, window and selected pages only
  bool slow = false;      // complete pages are also in the slow tier
  bool selects = false;   // heads select pages past the budget
  bool speculative =
      false;  // with the last step's query, corrected below tau; else with this one's
  float tau = 0.8f;
  Pooling pooling = Pooling::kMeanSoftmax;
  int32_t dense_layers = 0;
  int32_t gather_ctas = 8;
  // Benchmarks of synthetic weights (rope_append.hpp, selection.hpp); negative: off.
  float forced_drift = -1;
  float forced_churn = -1;
};

}  // namespace freekv
