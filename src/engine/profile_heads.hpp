// Measures a model's head profile (policies/head_profile.hpp).
#pragma once

#include <cstdint>
#include <functional>

#include "model/model.hpp"
#include "policies/head_profile.hpp"

namespace freekv {

struct ProfileHeadsOptions {
  int64_t tokens = 512;  // random tokens, which then repeat
  int repeats = 4;       // of them in the text, at least 2
  uint64_t seed = 1;
  int threads = 1;
};

/// Feeds random tokens, then the same again, and averages over all tokens from the second time on
/// how much each head attends to earlier copies of the token (echo) and to what followed them
/// (induction). Random text, so that nothing but the repetition gives a reason to look there.
/// `proceed(done)` as for prefill(). Throws Error(kInvalidArgument) when the text does not fit the
/// model's context.
HeadProfile profile_heads(const Model& model, const ProfileHeadsOptions& options,
                          const std::function<bool(int64_t done)>& proceed = nullptr);

}  // namespace freekv
