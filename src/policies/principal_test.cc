// Products, principal directions and projections against plain loops.
#include "policies/principal.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "freekv/error.hpp"

namespace freekv {
namespace {

std::vector<float> random_floats(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

struct Size {
  int64_t rows, channels;
};
constexpr Size kSizes[] = {{0, 5}, {1, 1}, {1, 64}, {4, 3}, {31, 17}, {256, 128}, {257, 40}};

TEST(Principal, ProductsAreAddedToWhatWasThere) {
  for (const auto& [rows, n] : kSizes) {
    const std::vector<float> x = random_floats(rows * n, 1);
    std::vector<double> products(static_cast<size_t>(n * n), 2.5);
    add_products(View<const float, 2>(x.data(), rows, n), View<double, 2>(products.data(), n, n));
    for (int64_t a = 0; a < n; ++a) {
      for (int64_t b = 0; b < n; ++b) {
        double expected = 2.5;
        for (int64_t t = 0; t < rows; ++t) expected += dot(&x[t * n + a], &x[t * n + b], 1);
        ASSERT_NEAR(products[static_cast<size_t>(a * n + b)], expected, 1e-6 * (rows + 10.0))
            << rows << " rows of " << n << " at " << a << ", " << b;
      }
    }
  }
}

TEST(Principal, ProjectionsArePlainProducts) {
  for (const auto& [rows, n] : kSizes) {
    for (const int64_t r : {int64_t{1}, (n + 1) / 2, n}) {
      const std::vector<float> x = random_floats(rows * n, 2), to = random_floats(r * n, 3);
      std::vector<float> out(static_cast<size_t>(rows * r), NAN);
      project(View<const float, 2>(x.data(), rows, n), View<const float, 2>(to.data(), r, n),
              View<float, 2>(out.data(), rows, r));
      for (int64_t t = 0; t < rows; ++t) {
        for (int64_t i = 0; i < r; ++i) {
          ASSERT_NEAR(out[static_cast<size_t>(t * r + i)], dot(&x[t * n], &to[i * n], n),
                      1e-6 * (n + 10.0));
        }
      }
    }
  }
}

// Vectors that are long along one direction and half as long along another, over little noise.
TEST(Principal, DirectionsAreOrthonormalAndTheLargestFirst) {
  constexpr int64_t kRows = 400, kN = 24, kRank = 5;
  std::vector<float> x = random_floats(kRows * kN, 4);
  const std::vector<float> size = random_floats(2 * kRows, 5);
  for (int64_t t = 0; t < kRows; ++t) {
    for (int64_t e = 0; e < kN; ++e) x[static_cast<size_t>(t * kN + e)] *= 0.01f;
    x[static_cast<size_t>(t * kN + 7)] += 2 * size[static_cast<size_t>(2 * t)];
    x[static_cast<size_t>(t * kN + 3)] += size[static_cast<size_t>(2 * t + 1)];
  }
  std::vector<double> products(static_cast<size_t>(kN * kN));
  const View<double, 2> of(products.data(), kN, kN);
  add_products(View<const float, 2>(x.data(), kRows, kN), of);
  std::vector<float> memory(static_cast<size_t>(kRank * kN), NAN);
  const View<float, 2> directions(memory.data(), kRank, kN);
  principal_directions(of, directions);
  for (int64_t i = 0; i < kRank; ++i) {
    for (int64_t j = 0; j < kRank; ++j) {
      EXPECT_NEAR(dot(directions[i].data(), directions[j].data(), kN), i == j ? 1 : 0, 1e-6);
    }
  }
  EXPECT_GT(std::abs(directions[0][7]), 0.99f);
  EXPECT_GT(std::abs(directions[1][3]), 0.99f);
}

TEST(Principal, RefusesOtherShapes) {
  std::vector<double> products(16);
  std::vector<float> x(16);
  EXPECT_THROW(
      add_products(View<const float, 2>(x.data(), 2, 3), View<double, 2>(products.data(), 4, 4)),
      Error);
  EXPECT_THROW(principal_directions(View<const double, 2>(products.data(), 2, 2),
                                    View<float, 2>(x.data(), 3, 2)),
               Error);
  EXPECT_THROW(project(View<const float, 2>(x.data(), 2, 3), View<const float, 2>(x.data(), 2, 4),
                       View<float, 2>(x.data(), 2, 2)),
               Error);
}

}  // namespace
}  // namespace freekv
