#include "engine/sampler.hpp"

#include <algorithm>
#include <cmath>

#include "core/check.hpp"

namespace freekv {

Sampler::Sampler(const SamplingOptions& options, int64_t vocab)
    : options_(options), random_(options.seed) {
  check_argument(std::isfinite(options.temperature) && options.temperature >= 0,
                 "temperature is {}, must be 0 or more", options.temperature);
  check_argument(options.top_k >= 0, "top_k is {}, must be 0 (off) or more", options.top_k);
  check_argument(options.top_p > 0 && options.top_p <= 1, "top_p is {}, must be in (0, 1]",
                 options.top_p);
  check_argument(options.min_p >= 0 && options.min_p <= 1, "min_p is {}, must be in [0, 1]",
                 options.min_p);
  check_argument(std::isfinite(options.repetition_penalty) && options.repetition_penalty > 0,
                 "repetition_penalty is {}, must be above 0", options.repetition_penalty);
  check_argument(options.repetition_window >= 0, "repetition_window is {}, must be 0 or more",
                 options.repetition_window);
  candidates_.reserve(static_cast<size_t>(vocab));
  weights_.reserve(static_cast<size_t>(vocab));
  recent_.reserve(static_cast<size_t>(options.repetition_window));
}

void Sampler::accept(int32_t token) {
  const auto window = static_cast<size_t>(options_.repetition_window);
  if (window == 0) return;
  if (recent_.size() < window) {
    recent_.push_back(token);
  } else {
    recent_[next_recent_] = token;
    next_recent_ = (next_recent_ + 1) % window;
  }
}

void Sampler::apply_penalty() {
  if (options_.repetition_penalty == 1) return;
  // Each recent token once, however often it occurred (CTRL, section 4.1).
  for (Candidate& candidate : candidates_) {
    if (std::find(recent_.begin(), recent_.end(), candidate.token) == recent_.end()) continue;
    candidate.logit = candidate.logit > 0 ? candidate.logit / options_.repetition_penalty
                                          : candidate.logit * options_.repetition_penalty;
  }
}

double Sampler::uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

int32_t Sampler::sample(std::span<const float> logits) {
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isnan(logits[i])) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  check_internal(!candidates_.empty(), "all {} logits are NaN", logits.size());
  apply_penalty();

  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  };
  if (options_.temperature == 0) {
    const int32_t token = std::min_element(candidates_.begin(), candidates_.end(), better)->token;
    accept(token);
    return token;
  }

  size_t keep = candidates_.size();
  if (options_.top_k > 0) keep = std::min(keep, static_cast<size_t>(options_.top_k));
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(keep),
                    candidates_.end(), better);
  candidates_.resize(keep);

  weights_.resize(keep);
  const double best = candidates_[0].logit;
  check_internal(std::isfinite(best), "the largest logit is {}", best);
  if (options_.top_p < 1) {
    double total = 0;
    for (size_t i = 0; i < keep; ++i) total += weights_[i] = std::exp(candidates_[i].logit - best);
    double mass = 0;
    for (size_t i = 0; i < keep; ++i) {
      mass += weights_[i];
      if (mass >= options_.top_p * total) keep = i + 1;
    }
  }
  if (options_.min_p > 0) {
    const double floor = best + std::log(static_cast<double>(options_.min_p));
    while (keep > 1 && candidates_[keep - 1].logit < floor) --keep;
  }
  double total = 0;
  for (size_t i = 0; i < keep; ++i) {
    total += weights_[i] = std::exp((candidates_[i].logit - best) / options_.temperature);
  }
  double point = uniform() * total;
  size_t chosen = 0;
  while (chosen + 1 < keep && point >= weights_[chosen]) point -= weights_[chosen++];
  accept(candidates_[chosen].token);
  return candidates_[chosen].token;
}

}  // namespace freekv
