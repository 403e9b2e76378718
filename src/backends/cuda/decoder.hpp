// The decode step on a GPU: one captured graph per batch size, replayed for every step whatever the
// lengths. Selection, residency, correction and recall are decided on the device; the host writes
// token ids and launches (architecture.md, "CUDA: one graph per step, no host in the loop").
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backends/cuda/layout.hpp"
#include "backends/cuda/rope_append.hpp"
#include "backends/cuda/selection.hpp"
#include "backends/retrieval_rule.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {

class PinnedPool;

struct DecoderShape {
  int32_t layers = 0;
  int32_t hidden = 0;  // D
  int32_t ffn = 0;     // F
  int32_t vocab = 0;   // V
  float norm_eps = 1e-5f;
  Rope rope = Rope::kInterleaved;
  float rope_scale = 1;  // multiplies cos and sin (YaRN's attention factor)
  KvGeometry kv;
};

/// Weights in device memory, borrowed: bf16 matrices [outputs, inputs], f32 vectors.
struct DecoderLayer {
  const float* attention_norm = nullptr;  // [D]
  const void* qkv = nullptr;              // [(H + 2M) d, D]
  const float* qkv_bias = nullptr;        // [(H + 2M) d], or null
  const float* q_norm = nullptr;          // [d], RMS norm of each head's query, or null
  const float* k_norm = nullptr;          // [d], or null
  const void* output = nullptr;           // [D, H d]
  const float* output_bias = nullptr;     // [D], or null
  const float* ffn_norm = nullptr;        // [D]
  const void* gate_up = nullptr;          // [2F, D], the gates in front
  const void* down = nullptr;             // [D, F]
};
struct DecoderWeights {
  const void* embedding = nullptr;  // [V, D]
  std::vector<DecoderLayer> layers;
  const float* final_norm = nullptr;   // [D]
  const void* logits = nullptr;        // [V, D]
  const float* frequencies = nullptr;  // [d/2]
};

struct DecoderLimits {
  int32_t sequences = 1;  // open at once, and the largest batch
  int64_t context = 0;    // most tokens of a sequence
  int32_t host_threads = 4;
  /// Where the slow tiers of sequences come from and go back to; null: each is taken anew.
  std::shared_ptr<PinnedPool> slow = nullptr;
};

/// Used by one thread. Throws Error: kOutOfMemory with both byte counts before anything of a
/// sequence is kept, kDevice when the device fails, after which nothing works but destruction.
class Decoder {
 public:
  Decoder(const DecoderShape& shape, DecoderWeights weights, const RetrievalRule& rule,
          const PageMap& map, const DecoderLimits& limits);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// Bytes that a sequence of `context` tokens takes.
  struct Footprint {
    size_t fast = 0;
    size_t slow = 0;  // pinned host memory
    size_t sketch = 0;
    size_t tables = 0;
  };
  Footprint footprint(int64_t context) const;

  /// Takes the memory of a sequence; returns its index.
  int32_t open(int64_t context);
  void close(int32_t sequence);
  int64_t tokens(int32_t sequence) const;

  /// Where prefill puts the KV of a layer, slot = page: the slow tier of a budgeted layer (HND, or
  /// NHD if token_major), else the fast tier (NHD). Bytes are the caller's to write before begin().
  const SequenceLayer& layer(int32_t sequence, int32_t layer) const;
  /// The KV of `tokens` tokens is in place: sketches its pages, brings sink and window into the
  /// fast tier and makes the sequence ready to decode.
  void begin(int32_t sequence, int64_t tokens);
  /// begin() where sketches and the pages of common_pages() are in place too, and what wrote them
  /// has finished.
  void begin_placed(int32_t sequence, int64_t tokens);
  const DecoderShape& shape() const;
  const PageMap& map() const;
  /// Waits for all steps, and for what they recall ahead.
  void drain();

  /// One step: sequences[i] goes on with ids[i]. Queues everything and returns; with mechanisms
  /// that decide on the host it waits for every layer's selection.
  void step(std::span<const int32_t> sequences, std::span<const int32_t> ids);
  /// The last step's logits [n, V] in device memory, valid once the stream has come so far.
  const float* logits() const;
  cudaStream_t stream() const;
  /// Counters of a sequence since begin(), of all heads: of each layer, and of all. Wait for the
  /// stream.
  std::vector<RowCounters> layer_counters(int32_t sequence) const;
  RowCounters counters(int32_t sequence) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace freekv::cuda
