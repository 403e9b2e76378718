// Exact chunked prefill of one sequence: dense attention, KV to the tiers the policy asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/step_context.hpp"

namespace freekv {

/// KV that another sequence of the same model has already: its first `tokens` tokens, whole chunks,
/// are those of the prompt and not all of it.
struct PrefillPrefix {
  const SequenceCache* cache = nullptr;
  int64_t tokens = 0;
};

/// Feeds the prompt in chunks of at most `chunk` tokens to a sequence that holds nothing, or the
/// beginning of this prompt as an earlier prefill made it, and returns logits [1, V] after the last
/// token, valid until the next step. `proceed(done)` is called after
/// each chunk with the tokens done; when it returns false, throws Error(kCancelled). Chunks of the
/// prefix are copied.
View<const float, 2> prefill(StepContext step, const PolicySequence& sequence,
                             std::span<const int32_t> prompt, int64_t chunk,
                             const PrefillPrefix& prefix,
                             const std::function<bool(int64_t done)>& proceed);

}  // namespace freekv
