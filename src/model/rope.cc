#include "model/rope.hpp"

#include <cmath>

namespace freekv {

RopeFrequencies::RopeFrequencies(const ModelConfig& config, View<const float, 1> factors) {
  const int pairs = config.head_dim / 2;
  frequencies_.reserve(static_cast<size_t>(pairs));
  for (int i = 0; i < pairs; ++i) {
    const double exponent = -2.0 * i / config.head_dim;
    auto frequency = static_cast<float>(std::pow(static_cast<double>(config.rope_base), exponent));
    frequency /= config.rope_scale;
    if (factors.data()) frequency /= factors[i];
    frequencies_.push_back(frequency);
  }
}

void RopeFrequencies::fill(int64_t position, View<float, 1> cos, View<float, 1> sin) const {
  for (int i = 0; i < pairs(); ++i) {
    const float angle = static_cast<float>(position) * frequencies_[static_cast<size_t>(i)];
    cos[i] = std::cos(angle);
    sin[i] = std::sin(angle);
  }
}

}  // namespace freekv
