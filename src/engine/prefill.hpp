// Exact chunked prefill of one sequence: dense attention, KV to the tiers the policy asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/kept_queries.hpp"
#include "engine/runner.hpp"
#include "engine/step_context.hpp"

namespace freekv {

/// The first token of a prompt whose query the policy must see; `prompt` where it sees none.
int64_t first_observed(const SequenceCache& cache, int64_t prompt);

/// How many first tokens of a prompt may be there already: not the last, whose logits are asked
/// for, nor those whose queries the policy must see.
int64_t tokens_without_queries(const SequenceCache& cache, int64_t prompt);

/// KV that another sequence of the same model has already: its first `tokens` tokens are those of
/// the prompt.
struct PrefillPrefix {
  const SequenceCache* cache = nullptr;
  /// Where it is on a device instead.
  KnownPrompt::Read read = nullptr;
  int64_t tokens = 0;
  /// The policy's state has seen all queries of the prompt already.
  bool observed = false;
  /// Their queries, where the policy must see some; what is kept reaches back far enough.
  const KeptQueries* queries = nullptr;
};

/// Feeds the prompt in chunks of at most `chunk` tokens to a sequence that holds nothing, or the
/// beginning of this prompt as an earlier prefill made it, and returns logits [1, V] after the last
/// token, valid until the next step. `proceed(done)` is called after each chunk with the tokens
/// done; when it returns false, throws Error(kCancelled). The prefix is copied, to the bits that
/// computing it gives: what follows does not depend on where chunks begin. Neither may reach
/// further than tokens_without_queries(), but the prefix may with queries. Those that are computed
/// are kept in `keep` unless it is null.
View<const float, 2> prefill(StepContext step, const PolicySequence& sequence,
                             std::span<const int32_t> prompt, int64_t chunk,
                             const PrefillPrefix& prefix, KeptQueries* keep,
                             const std::function<bool(int64_t done)>& proceed);

}  // namespace freekv
