// What a retrieval method is to a device that runs it without the host, as data: a policy states it
// (Policy::device_rule), the device's decoder follows it.
#pragma once

#include <cstdint>

#include "backends/tensors.hpp"

namespace freekv {

/// How misses reach their slots. All bring the same pages to the same slots; two of them exist to
/// be compared with the first (algorithm.md, section 5).
enum class Mechanism : uint8_t {
  kGather,    // a kernel reads pinned memory by lists on the device; no host in the loop
  kStreamed,  // FreeKV, section 4.3: the host reads the lists and issues copies to staging buffers
              // in turn, the conversion of one beside the transfer of the next
  kPerPage,   // the host reads the lists and issues one 2D copy per page of a head, straight into
              // its slot, one after the other
};

/// How the slow tier is laid out.
enum class HostLayout : uint8_t {
  kHeadMajor,   // HND: a head's page is one run
  kTokenMajor,  // NHD: a head's page is 2p rows of d values, M d apart; kPerPage only
};

/// The default is dense attention.
struct RetrievalRule {
  bool budgeted = false;  // the fast tier holds sink, window and selected pages only
  bool slow = false;      // complete pages are also in the slow tier
  bool selects = false;   // heads select pages past the budget
  bool speculative =
      false;  // with the last step's query, corrected below tau; else with this one's
  float tau = 0.8f;
  /// With `speculative` and kKey2, in place of tau: every head selects by attention mass before
  /// attention and waits for the heaviest missing pages, until what is still missing weighs less
  /// than epsilon; the rest is recalled for the next step (algorithm.md, section 6).
  bool coverage = false;
  double epsilon = 0.07;
  SketchKind sketch = SketchKind::kMinMax;
  Pooling pooling = Pooling::kMeanSoftmax;
  int32_t dense_layers = 0;
  int32_t gather_ctas = 8;
  // Benchmarks of synthetic weights (rope_append.hpp, selection.hpp); negative: off.
  float forced_drift = -1;
  float forced_churn = -1;
  // What the default is measured against.
  Mechanism mechanism = Mechanism::kGather;
  HostLayout host_layout = HostLayout::kHeadMajor;
  int32_t staging_buffers = 2;  // of kStreamed: 1 or 2
  bool use_graph = true;        // with kGather; the others decide on the host, which no graph holds
};

}  // namespace freekv
