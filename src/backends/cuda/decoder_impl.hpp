// What a decoder holds, and one step of it; see decoder.hpp. Included by decoder.cc and
// decoder_step.cc alone.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "backends/cuda/decoder.hpp"
#include "backends/cuda/gemv.hpp"
#include "backends/cuda/recall_mechanism.hpp"
#include "backends/cuda/sequence_memory.hpp"

namespace freekv::cuda {

// Branches of a step that select and recall for the next one. What takes a layer's branch a moment
// on an idle GPU takes it longer than a layer beside the weights, so that several run at a time.
constexpr int kSides = 3;

struct Decoder::Impl {
  Impl(const DecoderShape& s, DecoderWeights w, const RetrievalRule& r, const PageMap& m,
       const DecoderLimits& l);
  ~Impl();

  int32_t heads() const { return shape.kv.query_heads(); }
  int32_t kv_heads() const { return shape.kv.kv_heads; }
  int32_t qkv_width() const { return (heads() + 2 * kv_heads()) * shape.kv.head_dim; }
  /// Whether heads are corrected when their query has moved, by its cosine with the last one.
  bool tests_drift() const { return rule.speculative && !rule.coverage; }
  bool retrieves(int32_t layer) const {
    return (rule.selects || rule.budgeted) && layer >= rule.dense_layers;
  }

  void begin(int32_t sequence, int64_t count, bool placed);

  // --- one step, as it is captured; each reads like the algorithm -------------------------------
  void queue_step(int32_t n);
  void queue_layer(int32_t layer);
  void queue_selection(const SelectParams& params);
  void queue_speculation(SelectParams params);
  void linear(GemvParams params);
  SelectParams selection(int32_t layer) const;
  Graph& graph(int32_t n);
  void run_step(int32_t n);

  DecoderShape shape;
  DecoderWeights weights;
  RetrievalRule rule;
  PageMap map;
  DecoderLimits limits;

  Stream main;
  struct Side {
    Stream stream{-1};  // recall goes first: it is small, and what it hides behind is large
    Event done;
    DeviceBuffer scores;
  };
  Side sides[kSides];
  // Reused by every capture: forks of the side branches.
  Event query_ready, attended;

  // The batch, at fixed addresses.
  Batch batch;
  DeviceBuffer sequence_table, tokens;
  DeviceBuffer batch_input;  // Batch::sequence, then `ids`, each with room for all sequences
  int32_t* ids = nullptr;
  // What the host writes for the next step, locked so that the copies are asynchronous; of two, as
  // the last step's may still be read.
  struct Input {
    PinnedBuffer memory;
    Event copied;
    bool used = false;
  };
  Input inputs[2];
  int turn = 0;

  // Activations. q and modes are kept per layer, since a layer's speculation reads them while the
  // next layers compute.
  DeviceBuffer x, qkv, q, modes, attention, activated, logits;
  /// Of each product of a step, what blocks have taken of it (GemvParams::taken).
  DeviceBuffer taken;
  DeviceBuffer corrections;  // SelectParams::corrections, of the layer that is computed
  size_t products = 0, queued_products = 0;
  DeviceBuffer attention_scratch, scores_main, moves, move_counts, counters;
  int32_t splits = 1;

  std::vector<std::unique_ptr<SequenceMemory>> open_sequences;
  std::map<int32_t, Graph> graphs;

  std::unique_ptr<RecallMechanism> recall;         // null where nothing is recalled
  std::vector<const SequenceLayer*> batch_layers;  // of the step's sequences
};

}  // namespace freekv::cuda
