#include "eval/row_logits.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "backends/op_test.hpp"
#include "freekv/error.hpp"

namespace freekv::eval {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

double log_normaliser(const std::vector<float>& logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - most);
  return most + std::log(sum);
}

// By definition.
double kl_reference(const std::vector<float>& p, const std::vector<float>& q) {
  const double p_norm = log_normaliser(p), q_norm = log_normaliser(q);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = p[i] - p_norm;
    if (const double share = std::exp(log_p); share > 0) sum += share * (log_p - (q[i] - q_norm));
  }
  return sum;
}

std::vector<float> random_logits(size_t n, float deviation, std::mt19937& random) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

TEST(KlDivergence, OfHandCases) {
  for_each_simd_target([] {
    const std::vector<float> even = {0, 0}, shifted = {5, 5}, skewed = {std::log(3.0f), 0};
    EXPECT_NEAR(kl_divergence(even, shifted), 0, 1e-15);
    // (1/2, 1/2) against (3/4, 1/4): log(1/2) - (log(3/4) + log(1/4)) / 2.
    EXPECT_NEAR(kl_divergence(even, skewed), std::log(2 / std::sqrt(3.0)), 1e-7);
    EXPECT_NEAR(kl_divergence(skewed, even), 0.75 * std::log(1.5) + 0.25 * std::log(0.5), 1e-7);
  });
}

TEST(KlDivergence, IsThatOfTheDefinition) {
  for_each_simd_target([] {
    std::mt19937 random(1);
    for (const size_t n : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 4096, 4099}) {
      for (const float deviation : {0.1f, 3.0f, 40.0f, 400.0f}) {
        const auto p = random_logits(n, deviation, random), q = random_logits(n, deviation, random);
        const double expected = kl_reference(p, q);
        EXPECT_NEAR(kl_divergence(p, q), expected, 1e-12 * (1 + expected) * (1 + deviation))
            << n << " of deviation " << deviation;
        EXPECT_NEAR(kl_divergence(p, p), 0, 1e-13 * (1 + deviation)) << n;
      }
    }
  });
}

TEST(KlDivergence, TokensThatCannotComeAddNothing) {
  for_each_simd_target([] {
    std::mt19937 random(2);
    for (const size_t at : {0, 5, 36}) {  // in a vector, and behind the last
      auto p = random_logits(37, 2, random), q = random_logits(37, 2, random);
      auto shorter_p = p, shorter_q = q;
      shorter_p.erase(shorter_p.begin() + static_cast<ptrdiff_t>(at));
      shorter_q.erase(shorter_q.begin() + static_cast<ptrdiff_t>(at));
      p[at] = q[at] = -kInfinity;
      EXPECT_NEAR(kl_divergence(p, q), kl_reference(shorter_p, shorter_q), 1e-12);
      p[at] = 0;  // q rules out what may come
      EXPECT_EQ(kl_divergence(p, q), kInfinity);
    }
  });
}

TEST(KlDivergence, RefusesRowsWithoutASoftmax) {
  for_each_simd_target([] {
    const std::vector<float> usual(37);
    for (const size_t at : {0, 5, 36}) {
      for (const float value : {NAN, kInfinity}) {
        std::vector<float> other = usual;
        other[at] = value;
        EXPECT_THROW(kl_divergence(other, usual), Error) << value << " at " << at;
        EXPECT_THROW(kl_divergence(usual, other), Error) << value << " at " << at;
      }
    }
    const std::vector<float> nothing(37, -kInfinity);
    EXPECT_THROW(kl_divergence(nothing, usual), Error);
    EXPECT_THROW(kl_divergence(usual, nothing), Error);
    EXPECT_THROW(kl_divergence(usual, std::vector<float>(36)), Error);
    EXPECT_THROW(kl_divergence({}, {}), Error);
  });
}

TEST(Likeliest, IsTheFirstOfTheLargest) {
  for_each_simd_target([] {
    std::mt19937 random(3);
    for (const size_t n : {1, 2, 7, 8, 9, 16, 17, 33, 100, 4099}) {
      auto logits = random_logits(n, 1, random);
      const auto first = std::max_element(logits.begin(), logits.end());
      EXPECT_EQ(likeliest(logits), static_cast<size_t>(first - logits.begin())) << n;
      logits.back() = *first;  // a second one changes nothing
      EXPECT_EQ(likeliest(logits), static_cast<size_t>(first - logits.begin())) << n;
      logits.assign(n, -kInfinity);
      EXPECT_EQ(likeliest(logits), 0u);
      logits[n / 2] = NAN;
      EXPECT_EQ(likeliest(logits), 0u);
    }
    EXPECT_THROW(likeliest({}), Error);
  });
}

}  // namespace
}  // namespace freekv::eval
