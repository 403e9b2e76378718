// How the misses of a selection reach their slots: what the decoder asks of a mechanism, so that
// its step reads the same with all of them.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <span>

#include "backends/cuda/decoder.hpp"
#include "backends/cuda/selection.hpp"

namespace freekv::cuda {

/// Used by the decoder's thread. Per layer and step: hold(), bring() for the rows that select
/// before attention, bring_ahead() for the others if they speculate, finish_layer() once the rest
/// of the layer is queued. `params` is what choose_pages() was given before on the same stream.
class RecallMechanism {
 public:
  RecallMechanism() = default;
  virtual ~RecallMechanism() = default;
  RecallMechanism(const RecallMechanism&) = delete;
  RecallMechanism& operator=(const RecallMechanism&) = delete;

  /// Whether a captured graph can hold it: it decides nothing on the host.
  virtual bool capturable() const = 0;
  /// The layers of each sequence of the step that begins, in the batch's order.
  virtual void set_batch(std::span<const SequenceLayer* const> /*batch*/) {}
  /// What is queued on `stream` from here on finds in place what the last step recalled for
  /// `layer`, and may change the layer's lists of moves.
  virtual void hold(int32_t /*layer*/, cudaStream_t /*stream*/) {}
  /// What is queued on `stream` from here on finds the pages in place.
  virtual void bring(const SelectParams& params, cudaStream_t stream) = 0;
  /// For the next step, beside the rest of this one.
  virtual void bring_ahead(const SelectParams& params, cudaStream_t stream) = 0;
  /// The rest of the layer is queued: the host has time.
  virtual void finish_layer() {}
  /// Waits for all copies under way, whatever became of the device: memory may go afterwards.
  virtual void drain() noexcept {}
};

/// For batches of up to `sequences`; borrows nothing.
std::unique_ptr<RecallMechanism> make_recall_mechanism(const DecoderShape& shape,
                                                       const RetrievalRule& rule,
                                                       const PageMap& map, int32_t sequences);

}  // namespace freekv::cuda
