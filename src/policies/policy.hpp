// A retrieval method: which pages each KV head attends to, and what moves between the tiers.
//
// A policy is one file in methods/: five hooks and a description. Per-sequence state lives in a
// PolicyState of its own, made for each request and dropped with it, so that nothing survives into
// the next (but see PolicyState::rewind). The decode step calls, per layer: begin_layer, pages_for,
// attention, after_attention (architecture.md, "The decode step is one page of code").
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "backends/retrieval_rule.hpp"
#include "freekv/stats.hpp"
#include "kvcache/cache_config.hpp"
#include "kvcache/sequence_cache.hpp"

namespace freekv {

/// What a policy remembers about one sequence. All memory is taken when it is made.
class PolicyState {
 public:
  virtual ~PolicyState() = default;
  /// Becomes what it was when the prompt's queries had all been seen, before on_prefill: for the
  /// same prompt once more, whose queries are then not shown again. False where that is not known.
  virtual bool rewind() { return false; }
};

/// What a policy may ask of the model, which stands above it: implemented by the engine. Calls
/// take no memory.
class ModelView {
 public:
  virtual ~ModelView() = default;
  /// q [n, H * d], after RoPE, that `layer` would make of normed inputs x [n, D] of tokens at
  /// `positions` [n], each the last of its sequence. Not on several threads at once.
  virtual void project_query(ExecutionContext& ctx, Backend& backend, int layer,
                             View<const float, 2> x, std::span<const int64_t> positions,
                             View<float, 2> q) const = 0;
  /// Turns keys x [heads, d] to where RoPE puts them at `position`, in a step after which the
  /// sequence has `length` tokens, or back from there. On any thread.
  virtual void rotate(int64_t position, int64_t length, bool back, View<float, 2> x) const = 0;
};

/// One sequence of the batch, as a policy sees it.
struct PolicySequence {
  SequenceCache& cache;
  PolicyState& state;
  const ModelView* model = nullptr;
};

/// Queries of a prompt's last tokens, in one layer of one chunk.
struct PromptQueries {
  ExecutionContext& ctx;
  Backend& backend;
  int layer = 0;
  float scale = 1;  // of q.k before the softmax: 1/sqrt(d)
  const PolicySequence& sequence;
  View<const float, 3> q;          // [T, H, d], after RoPE
  int64_t position = 0;            // of the first of the T tokens
  KvPool pool;                     // holds the KV of all tokens up to the last of these
  std::span<const int32_t> slots;  // of their pages, for all heads
};

/// One layer of one decode step for the whole batch. Row r = sequence * M + head.
struct LayerStep {
  ExecutionContext& ctx;
  Backend& backend;
  int layer = 0;
  float scale = 1;                            // of q.k before the softmax: 1/sqrt(d)
  std::span<const PolicySequence> sequences;  // K and V of this step's token are appended
  View<const float, 3> q;                     // [R, G, d], after RoPE
  std::span<AttentionRow> rows;               // [R], filled by pages_for
  View<const float, 2> input;                 // [batch, D], normed: what q, k and v are made of
  // In after_attention, what attention gave: its output, and ln of what its softmax divided by.
  View<float, 3> attended;  // [R, G, d]
  View<float, 2> log_mass;  // [R, G]
};

class Policy {
 public:
  virtual ~Policy() = default;

  /// What the cache must hold. Throws Error(kInvalidArgument) when the options cannot be met
  /// (budget below sink + window + one page).
  virtual CacheNeeds plan(const CacheConfig& config) const = 0;
  virtual std::unique_ptr<PolicyState> make_state(const CacheConfig& config) const = 0;
  /// What a device does to run this policy by itself, to the same pages; nullopt when it cannot,
  /// with these options. The hooks below are not called there.
  virtual std::optional<RetrievalRule> device_rule() const { return std::nullopt; }
  /// The queries of the last CacheNeeds::observed tokens of a prompt (all, if it has fewer), token
  /// after token within a layer; before on_prefill.
  virtual void on_queries(const PromptQueries&) {}
  /// After the prompt's last chunk, once per prompt. What no tier keeps is still in the slow tier.
  virtual void on_prefill(ExecutionContext&, Backend&, const PolicySequence&) {}
  /// Before q exists for this layer.
  virtual void begin_layer(LayerStep&) {}
  /// Fills step.rows; every page named is resident when this returns.
  virtual void pages_for(LayerStep& step) = 0;
  /// After this layer's attention has read its pages; may change its output.
  virtual void after_attention(LayerStep&) {}
};

/// One key a policy understands, for --policy NAME:key=value and for help texts.
struct PolicyKey {
  std::string name;
  std::string default_value;
  std::string help;
};

/// Values given by the user, over the defaults of the description.
class PolicyOptions {
 public:
  explicit PolicyOptions(std::map<std::string, std::string> values) : values_(std::move(values)) {}
  /// Throws Error(kInvalidArgument) naming key and value when the text is not such a value or
  /// outside [low, high].
  double number(const std::string& key, double low, double high) const;
  int64_t integer(const std::string& key, int64_t low, int64_t high) const;
  const std::string& text(const std::string& key) const;

 private:
  std::map<std::string, std::string> values_;
};

struct PolicyDescriptor {
  std::string name;
  std::string summary;  // one line, with its paper
  std::vector<PolicyKey> keys;
  std::function<std::unique_ptr<Policy>(const PolicyOptions&)> make;
};

/// All policies of this build, in order of name: generated from methods/*.cc.
const std::vector<PolicyDescriptor>& policy_table();

/// Makes a policy from "NAME" or "NAME:key=value,key=value". Throws Error(kInvalidArgument) that
/// names an unknown policy or key and lists the known ones.
std::unique_ptr<Policy> make_policy(const std::string& specification);

/// Names of the policies that have a device rule, as they are without keys: "freekv, full".
std::string device_policy_names();

}  // namespace freekv
