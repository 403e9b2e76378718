// Linear layers, decode and prefill form, against the scalar reference.
#include "backends/cpu/linear.hpp"

#include <gtest/gtest.h>

#include "backends/cpu/linear_prefill.hpp"
#include "backends/op_cases.hpp"
#include "backends/op_test.hpp"
#include "backends/reference/linear.hpp"
#include "freekv/error.hpp"

namespace freekv {
namespace {

using cases::LinearCase;
using cases::Matrix;

// Sums of up to 1030 products of unit size in f32, against f64.
constexpr double kTolerance = 1e-5;

BackendLimits limits_for(const LinearCase& c) {
  BackendLimits limits;
  limits.max_cols = c.k;
  limits.max_weight_rows = c.n;
  return limits;
}

// One case's inputs, and its output by any of the three forms.
class LinearRun {
 public:
  explicit LinearRun(const LinearCase& c)
      : case_(c),
        weight_(c.dtype, c.n, c.k, 1),
        x_(cases::random_floats(c.rows * c.k, 2)),
        start_(c.accumulate ? cases::random_floats(c.rows * c.n, 3)
                            : cases::poisoned(c.rows * c.n)) {}

  std::vector<float> reference() const {
    ExecutionContext ctx(1);
    reference::LinearScratch scratch;
    scratch.reserve(ctx, limits_for(case_));
    return into([&](View<float, 2> out) {
      reference::linear(ctx, scratch, x(), weight_.view(), case_.accumulate, out);
    });
  }
  std::vector<float> decode(int threads) const {
    ExecutionContext ctx(threads);
    return into(
        [&](View<float, 2> out) { cpu::linear(ctx, x(), weight_.view(), case_.accumulate, out); });
  }
  std::vector<float> prefill(int threads) const {
    ExecutionContext ctx(threads);
    return into([&](View<float, 2> out) { prefill_rows(ctx, x(), out); });
  }
  /// Row t of x alone.
  std::vector<float> decode_one(int64_t t) const {
    ExecutionContext ctx(1);
    std::vector<float> out = start_row(t);
    cpu::linear(ctx, x_row(t), weight_.view(), case_.accumulate,
                View<float, 2>(out.data(), 1, case_.n));
    return out;
  }
  std::vector<float> prefill_one(int64_t t) const {
    ExecutionContext ctx(1);
    std::vector<float> out = start_row(t);
    prefill_rows(ctx, x_row(t), View<float, 2>(out.data(), 1, case_.n));
    return out;
  }

 private:
  void prefill_rows(ExecutionContext& ctx, View<const float, 2> x, View<float, 2> out) const {
    cpu::LinearPrefillScratch scratch;
    scratch.reserve(ctx, limits_for(case_));
    cpu::linear_prefill(ctx, scratch, x, weight_.view(), case_.accumulate, out);
  }
  View<const float, 2> x_row(int64_t t) const {
    return View<const float, 2>(x_.data() + t * case_.k, 1, case_.k);
  }
  std::vector<float> start_row(int64_t t) const {
    const auto from = start_.begin() + t * case_.n;
    return {from, from + case_.n};
  }
  View<const float, 2> x() const { return View<const float, 2>(x_.data(), case_.rows, case_.k); }
  template <typename Body>
  std::vector<float> into(Body&& body) const {
    std::vector<float> out = start_;
    body(View<float, 2>(out.data(), case_.rows, case_.n));
    return out;
  }

  LinearCase case_;
  Matrix weight_;
  std::vector<float> x_;
  std::vector<float> start_;
};

TEST(Linear, AgreesWithReferenceForAnyThreads) {
  for (const LinearCase& c : cases::linear_cases()) {
    SCOPED_TRACE(c.name());
    const LinearRun run(c);
    const std::vector<float> expected = run.reference();
    for_each_simd_target([&] {
      const std::vector<float> one = run.decode(1);
      EXPECT_LE(cases::relative_error(one, expected), kTolerance);
      for (const int threads : cases::kThreads) EXPECT_TRUE(same_bits(run.decode(threads), one));
    });
  }
}

TEST(LinearPrefill, AgreesWithReferenceForAnyThreads) {
  for (const LinearCase& c : cases::linear_cases()) {
    SCOPED_TRACE(c.name());
    const LinearRun run(c);
    const std::vector<float> expected = run.reference();
    for_each_simd_target([&] {
      const std::vector<float> one = run.prefill(1);
      EXPECT_LE(cases::relative_error(one, expected), kTolerance);
      for (const int threads : cases::kThreads) EXPECT_TRUE(same_bits(run.prefill(threads), one));
    });
  }
}

TEST(Linear, RowIsTheSameAloneAndInAnyBatch) {
  for (const DType dtype : cases::kWeightTypes) {
    for (int64_t rows = 2; rows <= 9; ++rows) {
      const LinearCase c{dtype, rows, 21, 96, rows % 2 == 0};
      SCOPED_TRACE(c.name());
      const LinearRun run(c);
      for_each_simd_target([&] {
        const std::vector<float> batch = run.decode(2);
        for (int64_t t = 0; t < rows; ++t) {
          const std::span row =
              std::span(batch).subspan(static_cast<size_t>(t * c.n), static_cast<size_t>(c.n));
          EXPECT_TRUE(same_bits(row, run.decode_one(t))) << "row " << t;
        }
      });
    }
  }
}

TEST(LinearPrefill, RowIsTheSameInAnyChunk) {
  const LinearCase c{DType::kQ8_0, 103, 70, 544, false};
  const LinearRun run(c);
  for_each_simd_target([&] {
    const std::vector<float> whole = run.prefill(2);
    for (const int64_t t : {0, 1, 5, 95, 96, 102}) {
      const std::span row =
          std::span(whole).subspan(static_cast<size_t>(t * c.n), static_cast<size_t>(c.n));
      EXPECT_TRUE(same_bits(row, run.prefill_one(t))) << "row " << t;
    }
  });
}

// More weights than are packed at a time: 4 MiB.
TEST(LinearPrefill, WeightsInSeveralParts) {
  const LinearRun run({DType::kBF16, 5, 2100, 1030, false});
  EXPECT_LE(cases::relative_error(run.prefill(2), run.reference()), kTolerance);
}

TEST(Linear, RefusesShapesThatDisagree) {
  const Matrix weight(DType::kF32, 4, 8, 1);
  const std::vector<float> x(16);
  std::vector<float> out(16);
  ExecutionContext ctx(1);
  const auto multiply = [&](int64_t k, int64_t n) {
    cpu::linear(ctx, View<const float, 2>(x.data(), 1, k), weight.view(), false,
                View<float, 2>(out.data(), 1, n));
  };
  EXPECT_NO_THROW(multiply(8, 4));
  EXPECT_THROW(multiply(7, 4), Error);
  EXPECT_THROW(multiply(8, 5), Error);
}

}  // namespace
}  // namespace freekv
