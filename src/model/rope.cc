#include "model/rope.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace freekv {
namespace {

float plain_frequency(double base, int pair, int head_dim) {
  return static_cast<float>(std::pow(base, -2.0 * pair / head_dim));
}

/// The dimension, of d, that turns `rotations` times over the original context.
double yarn_dimension(const RopeConfig& config, int head_dim, float rotations) {
  const double wavelength = static_cast<double>(config.original_context) /
                            (static_cast<double>(rotations) * 2 * std::numbers::pi);
  return head_dim * std::log(wavelength) / (2 * std::log(static_cast<double>(config.base)));
}

/// YaRN (arXiv 2309.00071, section 3.2): pairs up to `low` keep their frequency, those from `high`
/// have it stretched, and between them it blends linearly.
void scale_yarn(const RopeConfig& config, int head_dim, std::vector<float>& frequencies) {
  const double low = std::max(0.0, std::floor(yarn_dimension(config, head_dim, config.beta_fast)));
  double high =
      std::min(head_dim - 1.0, std::ceil(yarn_dimension(config, head_dim, config.beta_slow)));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const auto stretched =
        static_cast<float>(std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0));
    frequencies[i] = frequencies[i] / config.factor * stretched + frequencies[i] * (1 - stretched);
  }
}

}  // namespace

RopeFrequencies::RopeFrequencies(const ModelConfig& config, View<const float, 1> factors)
    : config_(config.rope), head_dim_(config.head_dim) {
  const int pairs = config.head_dim / 2;
  frequencies_.reserve(static_cast<size_t>(pairs));
  for (int i = 0; i < pairs; ++i) {
    frequencies_.push_back(plain_frequency(static_cast<double>(config_.base), i, config.head_dim));
    if (factors.data()) frequencies_.back() /= factors[i];
    if (config_.scaling == RopeScaling::kLinear) frequencies_.back() /= config_.factor;
  }
  if (config_.scaling == RopeScaling::kYarn) scale_yarn(config_, head_dim_, frequencies_);
  if (config_.scaling == RopeScaling::kLlama3) {
    const std::vector<float> divisors = llama3_factors(config_, head_dim_);
    for (size_t i = 0; i < divisors.size(); ++i) frequencies_[i] /= divisors[i];
  }
}

bool RopeFrequencies::depends_on_length(int64_t length, int64_t other) const {
  return config_.scaling == RopeScaling::kDynamic && length != other &&
         std::max(length, other) > config_.original_context;
}

void RopeFrequencies::fill(int64_t position, int64_t length, View<float, 1> cos,
                           View<float, 1> sin) const {
  const bool grown = config_.scaling == RopeScaling::kDynamic && length > config_.original_context;
  double base = static_cast<double>(config_.base);
  if (grown) {
    const double factor = static_cast<double>(config_.factor);
    const double stretch =
        factor * static_cast<double>(length) / static_cast<double>(config_.original_context) -
        (factor - 1);
    base *= std::pow(stretch, static_cast<double>(head_dim_) / (head_dim_ - 2));
  }
  for (int i = 0; i < pairs(); ++i) {
    const float frequency =
        grown ? plain_frequency(base, i, head_dim_) : frequencies_[static_cast<size_t>(i)];
    const float angle = static_cast<float>(position) * frequency;
    cos[i] = std::cos(angle) * config_.attention_factor;
    sin[i] = std::sin(angle) * config_.attention_factor;
  }
}

std::vector<float> llama3_factors(const RopeConfig& config, int head_dim) {
  std::vector<float> factors;
  const double factor = static_cast<double>(config.factor);
  const double low = static_cast<double>(config.low_freq_factor);
  const double high = static_cast<double>(config.high_freq_factor);
  for (int i = 0; i < head_dim / 2; ++i) {
    const double frequency = plain_frequency(static_cast<double>(config.base), i, head_dim);
    // Turns over the original context.
    const double turns =
        static_cast<double>(config.original_context) * frequency / (2 * std::numbers::pi);
    const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    factors.push_back(static_cast<float>(1 / ((1 - kept) / factor + kept)));
  }
  return factors;
}

}  // namespace freekv
