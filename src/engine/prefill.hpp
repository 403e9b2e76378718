// Exact chunked prefill of one sequence: dense attention, KV to the tiers the policy asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/runner.hpp"
#include "engine/step_context.hpp"

namespace freekv {

/// How many first tokens of a prompt may be there already: not the last, whose logits are asked
/// for, nor those whose queries the policy must see.
int64_t tokens_without_queries(const SequenceCache& cache, int64_t prompt);

/// KV that another sequence of the same model has already: its first `tokens` tokens, whole chunks,
/// are those of the prompt.
struct PrefillPrefix {
  const RunnerSequence* sequence = nullptr;
  int64_t tokens = 0;
};

/// Feeds the prompt in chunks of at most `chunk` tokens to a sequence that holds nothing, or the
/// beginning of this prompt as an earlier prefill made it, and returns logits [1, V] after the last
/// token, valid until the next step. `proceed(done)` is called after each chunk with the tokens
/// done; when it returns false, throws Error(kCancelled). Chunks of the prefix are copied. Neither
/// may reach further than tokens_without_queries().
View<const float, 2> prefill(StepContext step, const PolicySequence& sequence,
                             std::span<const int32_t> prompt, int64_t chunk,
                             const PrefillPrefix& prefix,
                             const std::function<bool(int64_t done)>& proceed);

}  // namespace freekv
