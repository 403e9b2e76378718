// Rotary position embedding: the cos/sin rows of the positions at hand.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/view.hpp"
#include "model/config.hpp"

namespace freekv {

/// Frequencies base^(-2i/d), i < d/2, scaled as the model says. Angles are f32 products of
/// position and frequency, as in the implementations the models were trained with.
///
/// Dynamic NTK scaling (as transformers has it) makes the frequencies of a step depend on the
/// length the sequence has after it: up to the original context L they are plain; at length T > L
/// the base grows to base * (s T / L - (s - 1))^(d / (d - 2)). A prompt is one step of its whole
/// length, however it is cut into chunks; each decoded token is a step. Keys stay as their step
/// rotated them.
class RopeFrequencies {
 public:
  /// `factors` [d/2] divide the frequencies, or are empty.
  RopeFrequencies(const ModelConfig& config, View<const float, 1> factors);

  int pairs() const { return static_cast<int>(frequencies_.size()); }
  /// [d/2], of every step unless scaling is dynamic.
  std::span<const float> values() const { return frequencies_; }
  /// Whether frequencies differ between steps that end at these lengths.
  bool depends_on_length(int64_t length, int64_t other) const;
  /// Writes cos and sin [d/2] of one position, in a step after which the sequence has `length`
  /// tokens. Allocates nothing.
  void fill(int64_t position, int64_t length, View<float, 1> cos, View<float, 1> sin) const;

 private:
  RopeConfig config_;
  int head_dim_;
  std::vector<float> frequencies_;
};

/// Divisors [d/2] of the frequencies under llama3 scaling (Llama 3.1): 1 for short wavelengths,
/// `factor` for long ones, and between them as the smoothed frequency implies.
std::vector<float> llama3_factors(const RopeConfig& config, int head_dim);

}  // namespace freekv
