// Rotary position embedding: the cos/sin rows of the positions at hand.
#pragma once

#include <cstdint>
#include <vector>

#include "core/view.hpp"
#include "model/config.hpp"

namespace freekv {

/// Frequencies base^(-2i/d), i < d/2, scaled as the model says. Angles are f32 products of
/// position and frequency, as in the implementations the models were trained with.
class RopeFrequencies {
 public:
  RopeFrequencies(const ModelConfig& config, View<const float, 1> factors);

  int pairs() const { return static_cast<int>(frequencies_.size()); }
  /// Writes cos and sin [d/2] of one position.
  void fill(int64_t position, View<float, 1> cos, View<float, 1> sin) const;

 private:
  std::vector<float> frequencies_;
};

}  // namespace freekv
