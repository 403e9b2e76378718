// The matrix product of a decode batch against a plain loop, and its independence of the batch.
#include "backends/cuda/gemv.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "backends/cuda/test_arrays.hpp"
#include "backends/op_cases.hpp"
#include "backends/op_test.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

// Floats behind every output, which no kernel may touch.
constexpr size_t kGuard = 64;

struct Problem {
  Problem(int n_, int k_)
      : n(n_),
        k(k_),
        x(cases::random_floats(int64_t{kMaxGemvRows} * k, 1)),
        weight(to_bf16(cases::random_floats(2 * int64_t{n} * k, 2))),
        bias(cases::random_floats(n, 3)),
        before(cases::random_floats(int64_t{kMaxGemvRows} * n, 4)),
        norm(cases::random_floats(k, 5)) {}

  int n;
  int k;
  std::vector<float> x;
  std::vector<uint16_t> weight;  // [2N, K]: the second half is for gated products
  std::vector<float> bias;
  std::vector<float> before;  // what accumulation adds to
  std::vector<float> norm;
};

constexpr float kEps = 1e-3f;

struct Options {
  bool bias = false;
  bool accumulate = false;
  bool norm = false;
  bool gated = false;
  bool taken = false;  // weight rows as blocks come to them
};

double product(const Problem& problem, int r, int i) {
  double sum = 0;
  for (int e = 0; e < problem.k; ++e) {
    const uint16_t bits = problem.weight[static_cast<size_t>(i) * problem.k + e];
    sum += double{problem.x[static_cast<size_t>(r) * problem.k + e]} * bf16_to_f32(bits);
  }
  return sum;
}

/// The problem whose x has been normed.
Problem normed(Problem problem) {
  for (int r = 0; r < kMaxGemvRows; ++r) {
    float* x = problem.x.data() + static_cast<size_t>(r) * problem.k;
    double squares = 0;
    for (int e = 0; e < problem.k; ++e) squares += double{x[e]} * x[e];
    const double inverse = 1 / std::sqrt(squares / problem.k + kEps);
    for (int e = 0; e < problem.k; ++e) {
      x[e] = static_cast<float>(x[e] * inverse * problem.norm[static_cast<size_t>(e)]);
    }
  }
  return problem;
}

std::vector<float> expected(const Problem& given, int rows, const Options& options) {
  const Problem problem = options.norm ? normed(given) : given;
  std::vector<float> out;
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < problem.n; ++i) {
      const auto at = static_cast<size_t>(r * problem.n + i);
      double sum = options.bias ? problem.bias[static_cast<size_t>(i)] : 0;
      if (options.accumulate) sum += problem.before[at];
      const double gate = product(problem, r, i);
      sum +=
          options.gated ? gate / (1 + std::exp(-gate)) * product(problem, r, problem.n + i) : gate;
      out.push_back(static_cast<float>(sum));
    }
  }
  return out;
}

// Rows [first, first + rows) of the problem's x; `out` starts as `before` or as NaN.
std::vector<float> run(const Problem& problem, int first, int rows, const Options& options) {
  const auto begin = static_cast<size_t>(first) * problem.k;
  const auto size = static_cast<size_t>(rows) * problem.n;
  const DeviceBuffer x = to_device(std::vector<float>(
      problem.x.begin() + begin, problem.x.begin() + begin + size_t(rows) * problem.k));
  const DeviceBuffer weight = to_device(problem.weight);
  const DeviceBuffer bias = to_device(problem.bias);
  std::vector<float> values = cases::poisoned(static_cast<int64_t>(size + kGuard));
  if (options.accumulate) {
    const auto from = problem.before.begin() + static_cast<int64_t>(first) * problem.n;
    std::copy_n(from, size, values.begin());
  }
  const DeviceBuffer out = to_device(values);
  const Stream stream;
  const DeviceBuffer norm = to_device(problem.norm);
  const DeviceBuffer taken = to_device(std::vector<unsigned>{0});
  gemv({x.as<float>(), weight.data(), options.bias ? bias.as<float>() : nullptr, out.as<float>(),
        rows, problem.n, problem.k, options.accumulate, options.norm ? norm.as<float>() : nullptr,
        kEps, options.gated, options.taken ? taken.as<unsigned>() : nullptr},
       stream);
  stream.synchronize();
  values = to_host<float>(out);
  for (size_t i = size; i < values.size(); ++i) EXPECT_TRUE(std::isnan(values[i])) << i;
  values.resize(size);
  return values;
}

// Around warps of 256 values, slices of 1024, two of them; blocks of 8 weight rows; and the
// model's.
constexpr int kSizes[][2] = {{1, 8},     {1, 256},   {3, 248},   {4, 264},    {5, 16},
                             {7, 1016},  {8, 1024},  {9, 1032},  {16, 2040},  {17, 2048},
                             {15, 2056}, {33, 4096}, {100, 520}, {13, 14336}, {1500, 64}};

TEST(Gemv, AgreesWithAPlainLoop) {
  for (const auto& [n, k] : kSizes) {
    const Problem problem(n, k);
    for (int rows = 1; rows <= kMaxGemvRows; ++rows) {
      SCOPED_TRACE("N=" + std::to_string(n) + " K=" + std::to_string(k) +
                   " rows=" + std::to_string(rows));
      for (const Options& options :
           {Options{rows % 2 == 0, rows % 3 == 0}, Options{rows % 2 != 0, rows % 3 != 0, true},
            Options{false, false, true, true}}) {
        EXPECT_LE(
            cases::relative_error(run(problem, 0, rows, options), expected(problem, rows, options)),
            2e-5);
      }
    }
  }
}

TEST(Gemv, ARowDoesNotDependOnTheOthers) {
  for (const auto& [n, k] : kSizes) {
    Problem problem(n, k);
    const Options options{n % 2 == 0, n % 2 == 0, k % 3 != 0, n % 2 != 0 && k % 3 != 0};
    std::vector<std::vector<float>> alone;
    for (int r = 0; r < kMaxGemvRows; ++r) alone.push_back(run(problem, r, 1, options));
    // The last row is no number, which must stay with it.
    for (int e = 0; e < k; ++e) {
      problem.x[static_cast<size_t>(kMaxGemvRows - 1) * k + e] =
          std::numeric_limits<float>::quiet_NaN();
    }
    for (int rows = 1; rows <= kMaxGemvRows; ++rows) {
      const std::vector<float> together = run(problem, 0, rows, options);
      for (int r = 0; r < std::min(rows, kMaxGemvRows - 1); ++r) {
        EXPECT_TRUE(same_bits(std::span(together).subspan(static_cast<size_t>(r) * n, n), alone[r]))
            << "N=" << n << " K=" << k << " row " << r << " of " << rows;
      }
      if (rows == kMaxGemvRows) {
        EXPECT_TRUE(std::isnan(together.back()));
      }
    }
  }
}

TEST(Gemv, IsTheSameWhoeverTakesWhat) {
  std::vector<std::pair<int, int>> sizes;
  for (const auto& [n, k] : kSizes) sizes.emplace_back(n, k);
  // Units for all groups of a GPU and more; x that leaves room for one block, and for fewer rows.
  sizes.insert(sizes.end(), {{9001, 16}, {5000, 1288}, {2200, 14336}});
  for (const auto& [n, k] : sizes) {
    const Problem problem(n, k);
    for (const int rows : {1, 2, 4, kMaxGemvRows}) {
      SCOPED_TRACE("N=" + std::to_string(n) + " K=" + std::to_string(k) +
                   " rows=" + std::to_string(rows));
      for (Options options : {Options{true, true}, Options{false, false, true, true}}) {
        const std::vector<float> shares = run(problem, 0, rows, options);
        options.taken = true;
        EXPECT_TRUE(same_bits(run(problem, 0, rows, options), shares));
      }
    }
  }
}

TEST(Gemv, IsTheSameInAGraph) {
  const Problem problem(200, 1288);
  const DeviceBuffer x = to_device(problem.x);
  const DeviceBuffer weight = to_device(problem.weight);
  const DeviceBuffer out = to_device(cases::poisoned(3 * problem.n));
  const Stream stream;
  const Graph graph = Graph::capture(stream, [&] {
    gemv({x.as<float>(), weight.data(), nullptr, out.as<float>(), 3, problem.n, problem.k}, stream);
  });
  for (int i = 0; i < 2; ++i) graph.launch(stream);
  stream.synchronize();
  EXPECT_TRUE(same_bits(to_host<float>(out), run(problem, 0, 3, {})));
}

TEST(Gemv, RefusesWhatItCannotRead) {
  const DeviceBuffer memory(4096);
  const auto* x = memory.as<float>();
  auto* out = memory.as<float>() + 512;
  const Stream stream;
  EXPECT_NO_THROW(gemv({x, x, nullptr, out, 0, 8, 8}, stream));
  EXPECT_NO_THROW(gemv({x, x, nullptr, out, 1, 0, 8}, stream));
  EXPECT_THROW(gemv({x, x, nullptr, out, kMaxGemvRows + 1, 8, 8}, stream), Error);
  EXPECT_THROW(gemv({x, x, nullptr, out, 1, 8, 12}, stream), Error);
  EXPECT_THROW(gemv({x + 1, x, nullptr, out, 1, 8, 8}, stream), Error);
  EXPECT_THROW(gemv({x, x + 2, nullptr, out, 1, 8, 8}, stream), Error);
  EXPECT_THROW(gemv({x, x, nullptr, out, 1, 8, 8, false, nullptr, 0, true}, stream), Error);
  EXPECT_THROW(gemv({x, x, x, out, 1, 8, 8, false, x, 0, true}, stream), Error);
}

}  // namespace
}  // namespace freekv::cuda
