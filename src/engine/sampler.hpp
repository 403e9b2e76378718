// From logits to the next token.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "freekv/options.hpp"

namespace freekv {

/// One per sequence. The same seed, options and logits give the same tokens on every machine.
class Sampler {
 public:
  /// Throws Error(kInvalidArgument) naming an option outside its range and the value.
  Sampler(const SamplingOptions& options, int64_t vocab);

  /// The next token for logits [V]; remembers it for the repetition penalty. Equal logits go to
  /// the lower id; NaN is never chosen. Throws Error(kInternal) when no logit is finite.
  int32_t sample(std::span<const float> logits);
  /// Counts a token of the prompt for the repetition penalty.
  void accept(int32_t token);

 private:
  struct Candidate {
    float logit;
    int32_t token;
  };
  void apply_penalty();
  double uniform();

  SamplingOptions options_;
  std::mt19937_64 random_;
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;
  std::vector<int32_t> recent_;  // ring of the last repetition_window tokens
  size_t next_recent_ = 0;
};

}  // namespace freekv
