// Runs policies on caches at their own level: prefill and decode steps with given q, k and v, and
// beside them a plain copy of all KV to compare with. No model is needed.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "device/buffer.hpp"
#include "fake_model.hpp"
#include "inputs.hpp"
#include "kvcache/sequence_cache.hpp"
#include "policies/policy.hpp"

namespace freekv::invariants {

struct Scenario {
  int layers = 3;
  int kv_heads = 2;
  int group = 2;
  int dim = 16;
  int page = 16;
  DType dtype = DType::kF16;
  TokenBudget tokens{112, 16, 32};  // k = 4 pages of 16
  int64_t max_context = 640;
  int64_t chunk = 50;  // of prefill; no multiple of a page
  int threads = 2;
  /// Whether prefill computes its attention; for tests of decode it need not.
  bool attend_in_prefill = true;

  CacheConfig cache_config() const;
};

/// All KV of one sequence, by its tokens' positions: slot = page in every layer.
class PlainCopy {
 public:
  PlainCopy(const Scenario& setup, Backend& backend);
  void append(ExecutionContext& ctx, int layer, int64_t position, View<const float, 3> k,
              View<const float, 3> v);
  const KvPool& pool(int layer) const { return pools_[static_cast<size_t>(layer)]; }
  std::span<const int32_t> pages(int64_t count) const {
    return std::span<const int32_t>(pages_).first(static_cast<size_t>(count));
  }

 private:
  Backend& backend_;
  std::vector<Buffer> memory_;
  std::vector<KvPool> pools_;
  std::vector<int32_t> pages_;
};

/// One sequence under test.
struct TestSequence {
  TestSequence(const Scenario& setup, const Policy& policy, Backend& backend, uint64_t seed,
               CacheServices services = {});
  /// As an engine starts the next request: the cache is reset, the policy's state made anew.
  void restart(const Policy& policy, uint64_t seed);

  Inputs inputs;
  SequenceCache cache;
  std::unique_ptr<PolicyState> state;
  PlainCopy plain;
  std::vector<float> output;                // [layers][H][d] of the last step
  std::vector<std::vector<float>> outputs;  // of all prefill chunks and steps, as recorded
};

class Driver {
 public:
  Driver(const Scenario& setup, const std::string& specification,
         std::unique_ptr<Backend> backend = make_reference_backend());

  const Scenario& setup() const { return setup_; }
  Policy& policy() { return *policy_; }
  Backend& backend() { return *backend_; }
  ExecutionContext& ctx() { return ctx_; }

  std::unique_ptr<TestSequence> make_sequence(uint64_t seed, CacheServices services = {});
  /// Prefills `tokens` further tokens and records the chunks' attention outputs.
  void prefill(TestSequence& sequence, int64_t tokens);
  /// One decode step of a batch; allocates nothing itself. Leaves TestSequence::output.
  void step(std::span<TestSequence* const> batch);
  /// `count` steps, recording the outputs.
  void decode(std::span<TestSequence* const> batch, int count);
  void decode(TestSequence& sequence, int count);

  /// Called when the rows of a layer are set, before attention; and after after_attention().
  std::function<void(LayerStep&, std::span<TestSequence* const>)> on_rows;
  std::function<void(LayerStep&, std::span<TestSequence* const>)> on_layer_done;

 private:
  void show_queries(TestSequence& sequence, int layer, View<const float, 3> q, int64_t end,
                    const SequenceCache::PrefillPages& pages);

  Scenario setup_;
  ExecutionContext ctx_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Policy> policy_;
  FakeModel model_;
  std::vector<float> q_, k_, v_, out_, log_mass_, input_;
  std::vector<AttentionRow> rows_;
  std::vector<PolicySequence> sequences_;
};

/// Prompt then steps of one sequence on its own: all recorded outputs.
std::vector<std::vector<float>> run_alone(const Scenario& setup, const std::string& specification,
                                          uint64_t seed, int64_t prompt, int steps,
                                          CacheServices services = {});

/// The dense result of the same inputs, computed from the plain copy alone.
std::vector<std::vector<float>> run_dense(const Scenario& setup, uint64_t seed, int64_t prompt,
                                          int steps);

}  // namespace freekv::invariants
