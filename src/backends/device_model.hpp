// What the engine asks of a device that runs whole steps by itself, such as a GPU: it is made from
// a model's weights and a retrieval rule, and holds sequences of its own. No header of the device's
// toolkit is needed here: the implementation is a library loaded at run time (device_library.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "backends/layer_weights.hpp"
#include "backends/retrieval_rule.hpp"
#include "backends/tensors.hpp"
#include "core/view.hpp"

namespace freekv {

/// A model's weights in a device's memory, which several models of one process may share.
class DeviceWeights {
 public:
  virtual ~DeviceWeights() = default;
};

/// The numbers of PageLayout (kvcache/page_layout.hpp), in pages unless said.
struct DevicePages {
  int page = 1;        // p, in tokens
  int64_t budget = 0;  // B, in tokens
  int32_t sink = 0;
  int32_t window = 1;
  int32_t selected = 0;  // k
  int32_t resident = 0;  // slots per head that hold selected pages
  int32_t beside = 0;    // pages of the last selection that a head may attend to beside the k
};

/// All that a model on a device is made from. Weights are borrowed until it is made.
struct DeviceModelSpec {
  // --- the model --------------------------------------------------------------------------------
  int hidden = 0;       // D
  int ffn = 0;          // F
  int query_heads = 0;  // H
  int64_t vocab = 0;    // V
  float norm_eps = 0;
  RopeStyle rope_style = RopeStyle::kInterleaved;
  float rope_scale = 1;                // multiplies cos and sin
  std::span<const float> frequencies;  // [d/2], the same at every length
  WeightView embedding;                // [V, D]
  std::span<const LayerWeights> layers;
  View<const float, 1> final_norm;  // [D]
  WeightView logits;                // [V, D]; may be the embedding
  /// Weights that another model of the same file has uploaded; null: this one does.
  std::shared_ptr<DeviceWeights> uploaded;
  /// In bytes of weights as they are uploaded; returning false ends with Error(kCancelled).
  std::function<bool(size_t done, size_t total)> on_load;

  // --- its cache --------------------------------------------------------------------------------
  KvShape kv;  // M, d, p, dtype
  DevicePages pages;
  RetrievalRule rule;
  size_t fast_limit_bytes = SIZE_MAX;  // of one sequence
  size_t slow_limit_bytes = SIZE_MAX;  // of one sequence

  // --- how much at once -------------------------------------------------------------------------
  int max_batch = 1;
  int64_t context = 0;  // most tokens of a sequence
  int threads = 1;      // host threads that convert weights and touch memory
};

class DeviceModel;

/// The first `tokens` tokens of a prompt, as a sequence of the same or another model (another rule
/// over the same weights and KV type) has them from its own last prefill; decode steps may have
/// followed. Nothing by default.
struct DevicePrefix {
  const DeviceModel* model = nullptr;
  int32_t sequence = 0;
  int64_t tokens = 0;
};

/// Who takes queries of a prompt, nobody by default: of its tokens from `first` on, as far as they
/// are computed. At the prompt's end `take` is given one layer after the other, q [T, H, d] of the
/// last T tokens as attention sees them, rounded to the KV type; valid during the call.
struct DeviceQueries {
  int64_t first = 0;
  std::function<void(int layer, View<const float, 3> q)> take;
};

/// Used by one thread at a time. Throws Error: kOutOfMemory with both byte counts before anything
/// of a sequence is kept; kDevice when the device fails or is lost, and from every call after that,
/// while destruction still works. After any Error of prefill() or decode(), the sequences of the
/// call must be prefilled anew.
class DeviceModel {
 public:
  virtual ~DeviceModel() = default;

  /// Bytes that a sequence takes, all of them when it is opened.
  struct Footprint {
    size_t fast = 0;
    size_t slow = 0;    // host memory
    size_t sketch = 0;  // sketches and page tables
  };
  virtual Footprint footprint(int64_t context) const = 0;

  /// The device's name, such as "NVIDIA H200".
  virtual const std::string& device() const = 0;
  virtual std::shared_ptr<DeviceWeights> weights() const = 0;

  /// Takes the memory of a sequence of at most `context` tokens, checked against the limits and
  /// what is free before any is taken; returns its number.
  virtual int32_t open(int64_t context) = 0;
  virtual void close(int32_t sequence) noexcept = 0;
  virtual int64_t tokens(int32_t sequence) const = 0;

  /// Starts the sequence over with `ids`, exactly (dense attention); returns logits [V] in host
  /// memory, valid until the next call. `proceed(done)` as for Engine::prefill; a device that works
  /// layer by layer counts tokens over all layers. The KV of `prefix` is copied, to the same bits:
  /// whole pages of the prompt, or all of it; then nothing is computed and the logits are empty.
  virtual View<const float, 1> prefill(int32_t sequence, std::span<const int32_t> ids,
                                       const std::function<bool(int64_t done)>& proceed,
                                       const DevicePrefix& prefix = {},
                                       const DeviceQueries& queries = {}) = 0;
  /// One step: sequences[i] goes on with ids[i]; returns logits [n, V] in host memory, valid until
  /// the next call. Each sequence has room for one more token.
  virtual View<const float, 2> decode(std::span<const int32_t> sequences,
                                      std::span<const int32_t> ids) = 0;

  /// Keys and values [T, M, d] of the tokens from `first` on of a layer, as f32: what another
  /// runner goes on from. Waits for the device. There are as many tokens.
  virtual void read_tokens(int32_t sequence, int32_t layer, int64_t first, View<float, 3> k,
                           View<float, 3> v) const = 0;

  /// Counters of one layer since the last prefill, of all its heads; stats.hpp says what each
  /// counts.
  struct LayerCounters {
    uint64_t selections = 0;
    uint64_t pages_selected = 0;
    uint64_t misses_before = 0;
    uint64_t misses_after = 0;
    uint64_t tested = 0;
    uint64_t drifted = 0;
    double lost_mass = 0;  // sum over the tests of a rule of coverage
  };
  /// Writes the counters of layer l to out[l]; waits for the device.
  virtual void counters(int32_t sequence, std::span<LayerCounters> out) const = 0;
};

}  // namespace freekv
