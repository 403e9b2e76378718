// One decode step: every sequence of a batch moves on by one token.
#pragma once

#include <cstdint>
#include <span>

#include "engine/step_context.hpp"

namespace freekv {

/// Feeds tokens[s] to sequences[s] and returns logits [batch, V], valid until the next step.
/// Requires room for one more token in every sequence. Allocates nothing; a sequence's result is
/// the same alone as in any batch.
View<const float, 2> decode_step(StepContext step, std::span<const PolicySequence> sequences,
                                 std::span<const int32_t> tokens);

}  // namespace freekv
