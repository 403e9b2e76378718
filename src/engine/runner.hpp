// What an engine computes with: operations on the host, or a device that runs whole steps.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "backends/tensors.hpp"
#include "core/view.hpp"
#include "freekv/stats.hpp"

namespace freekv {

class KeptQueries;

/// A prompt whose KV, as prefill made it, a sequence of a device begins with and still has.
struct KnownPrompt {
  std::span<const int32_t> tokens = {};
  int layers = 0;
  KvShape kv = {};
  /// Copies K and V [T, M, d] of its tokens from `first` on of `layer`, as f32.
  using Read = std::function<void(int layer, int64_t first, View<float, 3> k, View<float, 3> v)>;
  Read read = nullptr;
  const KeptQueries* queries = nullptr;  // of its last tokens, if any are kept
};

/// One sequence as the runner that made it keeps it; dropped before it.
class RunnerSequence {
 public:
  virtual ~RunnerSequence() = default;
  virtual int64_t tokens() const = 0;
  virtual int64_t context() const = 0;
  /// See Sequence::kept_tokens().
  virtual int64_t kept_tokens() const = 0;
  /// Since the last prefill began; valid until the sequence moves on.
  virtual const RetrievalStats& stats() const = 0;
  virtual MemoryStats memory() const = 0;
  /// For the host's runner to go on from, until the sequence moves on. Nothing on the host, whose
  /// runner copies from cache to cache, and while nothing is certain.
  virtual KnownPrompt known() const { return {}; }

  /// Whether it has logits: its last prefill ended, and no step failed since. The engine's.
  bool started = false;
};

/// Used by one thread at a time. Tokens and lengths were checked by the engine. After an Error of
/// prefill() or decode() the sequences of the call hold nothing that is certain.
class Runner {
 public:
  virtual ~Runner() = default;
  virtual const std::string& device() const = 0;
  /// What a full sequence of `context` tokens takes.
  virtual MemoryStats memory_for(int64_t context) const = 0;
  virtual std::unique_ptr<RunnerSequence> new_sequence(int64_t context) = 0;
  /// From now on the sequence keeps the queries of its prompts' last `tokens` tokens.
  virtual void keep_queries(RunnerSequence& sequence, int64_t tokens) = 0;
  /// As Engine::prefill; returns logits [V], valid until the next call. `like` may be null, or of
  /// any runner of the same model.
  virtual View<const float, 1> prefill(RunnerSequence& sequence, std::span<const int32_t> prompt,
                                       const std::function<bool(int64_t)>& proceed,
                                       const RunnerSequence* like) = 0;
  /// One step, of at least one sequence; returns logits [n, V], valid until the next call.
  virtual View<const float, 2> decode(std::span<RunnerSequence* const> sequences,
                                      std::span<const int32_t> tokens) = 0;
};

}  // namespace freekv
