// Linear layers, decode and prefill form, against the scalar reference.
#include "backends/cpu/linear.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "backends/cpu/linear_prefill.hpp"
#include "backends/op_cases.hpp"
#include "backends/op_test.hpp"
#include "backends/reference/linear.hpp"
#include "freekv/error.hpp"

namespace freekv {
namespace {

using cases::LinearCase;
using cases::Matrix;

constexpr Activations kAllActivations[] = {Activations::kAuto, Activations::kF32,
                                           Activations::kInt8};

// Sums of up to 1030 products of unit size in f32, against f64.
constexpr double kTolerance = 1e-5;

BackendLimits limits_for(const LinearCase& c) {
  BackendLimits limits;
  limits.max_rows = c.rows;
  limits.max_cols = c.k;
  limits.max_weight_rows = c.n;
  return limits;
}

// One case's inputs, and its output by any of the three forms.
class LinearRun {
 public:
  explicit LinearRun(const LinearCase& c, Activations activations = Activations::kAuto)
      : case_(c),
        activations_(activations),
        weight_(c.dtype, c.n, c.k, 1),
        x_(cases::random_floats(c.rows * c.k, 2)),
        start_(c.accumulate ? cases::random_floats(c.rows * c.n, 3)
                            : cases::poisoned(c.rows * c.n)) {}

  std::span<float> x_values() { return x_; }
  WeightView weight() const { return weight_.view(); }

  std::vector<float> reference() const { return reference(activations_); }
  std::vector<float> reference(Activations activations) const {
    ExecutionContext ctx(1);
    reference::LinearScratch scratch;
    scratch.reserve(ctx, limits_for(case_));
    return into([&](View<float, 2> out) {
      reference::linear(ctx, scratch, activations, x(), weight_.view(), case_.accumulate, out);
    });
  }
  std::vector<float> decode(int threads) const {
    ExecutionContext ctx(threads);
    return into([&](View<float, 2> out) { decode_rows(ctx, x(), out); });
  }
  std::vector<float> prefill(int threads) const {
    ExecutionContext ctx(threads);
    return into([&](View<float, 2> out) { prefill_rows(ctx, x(), out); });
  }
  /// Row t of x alone.
  std::vector<float> decode_one(int64_t t) const {
    ExecutionContext ctx(1);
    std::vector<float> out = start_row(t);
    decode_rows(ctx, x_row(t), View<float, 2>(out.data(), 1, case_.n));
    return out;
  }
  std::vector<float> prefill_one(int64_t t) const {
    ExecutionContext ctx(1);
    std::vector<float> out = start_row(t);
    prefill_rows(ctx, x_row(t), View<float, 2>(out.data(), 1, case_.n));
    return out;
  }

 private:
  void decode_rows(ExecutionContext& ctx, View<const float, 2> x, View<float, 2> out) const {
    cpu::LinearScratch scratch;
    scratch.reserve(ctx, limits_for(case_));
    cpu::linear(ctx, scratch, activations_, x, weight_.view(), case_.accumulate, out);
  }
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
  Activations activations_;
  Matrix weight_;
  std::vector<float> x_;
  std::vector<float> start_;
};

TEST(Linear, AgreesWithReferenceForAnyThreads) {
  for (const LinearCase& c : cases::linear_cases()) {
    for (const Activations activations : kAllActivations) {
      // Each of the two forms once.
      if (activations != Activations::kAuto &&
          takes_int8(activations, c.dtype) == takes_int8(Activations::kAuto, c.dtype)) {
        continue;
      }
      SCOPED_TRACE(c.name() + (takes_int8(activations, c.dtype) ? " in 8 bits" : ""));
      const LinearRun run(c, activations);
      const std::vector<float> expected = run.reference();
      for_each_simd_target([&] {
        const std::vector<float> one = run.decode(1);
        EXPECT_LE(cases::relative_error(one, expected), kTolerance);
        for (const int threads : cases::kThreads) EXPECT_TRUE(same_bits(run.decode(threads), one));
      });
    }
  }
}

// Each activation is off by half a step of its block at most, so a result by the sum of
// |weight| * step / 2; and what is measured must be of that kind, not much smaller.
TEST(Linear, RoundingActivationsCostsHalfAStepAtMost) {
  for (const DType dtype : cases::kWeightTypes) {
    if (!takes_int8(Activations::kInt8, dtype)) continue;
    SCOPED_TRACE(dtype_name(dtype));
    const LinearCase c{dtype, 3, 40, 1024, false};
    LinearRun run(c, Activations::kInt8);
    // Blocks of very different magnitudes, one of them with an outlier.
    for (int64_t i = 0; i < c.rows * c.k; ++i) {
      run.x_values()[static_cast<size_t>(i)] *= std::ldexp(1.0f, static_cast<int>(i / 256 % 4) * 3);
    }
    run.x_values()[700] = 500;
    const auto block = static_cast<size_t>(dtype_info(dtype).block_values);
    const std::vector<float> exact = run.reference(Activations::kF32);
    const std::vector<float> rounded = run.decode(2);
    double largest_share = 0;
    for (int64_t t = 0; t < c.rows; ++t) {
      const std::span<const float> x = run.x_values().subspan(static_cast<size_t>(t * c.k));
      for (int64_t n = 0; n < c.n; ++n) {
        std::vector<float> w(static_cast<size_t>(c.k));
        load_row(dtype, run.weight().row(n), w);
        double bound = 0;
        for (size_t b = 0; b < w.size(); b += block) {
          float largest = 0;
          double sum = 0;
          for (size_t i = b; i < b + block; ++i) {
            largest = std::max(largest, std::abs(x[i]));
            sum += std::abs(w[i]);
          }
          bound += sum * largest / 127 / 2;
        }
        const auto at = static_cast<size_t>(t * c.n + n);
        const double error = std::abs(static_cast<double>(rounded[at]) - exact[at]);
        EXPECT_LE(error, bound * 1.001) << "row " << t << " output " << n;
        largest_share = std::max(largest_share, error / bound);
      }
    }
    EXPECT_GT(largest_share, 0.01);
  }
}

TEST(Linear, WhatIsNotFiniteShowsInItsRowAlone) {
  for (const DType dtype : cases::kWeightTypes) {
    for (const Activations activations : {Activations::kAuto, Activations::kInt8}) {
      SCOPED_TRACE(dtype_name(dtype));
      const LinearCase c{dtype, 3, 9, 512, false};
      const LinearRun clean(c, activations);
      for (const float value :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
            -std::numeric_limits<float>::infinity()}) {
        for (const int64_t k : {0, 300, 511}) {
          LinearRun run(c, activations);
          run.x_values()[static_cast<size_t>(c.k + k)] = value;
          for_each_simd_target([&] {
            const std::vector<float> out = run.decode(1);
            const std::vector<float> expected = clean.decode(1);
            const auto row = [&](const std::vector<float>& values, int t) {
              return std::span(values).subspan(static_cast<size_t>(t * c.n),
                                               static_cast<size_t>(c.n));
            };
            EXPECT_TRUE(same_bits(row(out, 0), row(expected, 0)));
            EXPECT_TRUE(same_bits(row(out, 2), row(expected, 2)));
            for (const float result : row(out, 1)) EXPECT_FALSE(std::isfinite(result));
          });
        }
      }
    }
  }
}

TEST(Linear, TinyAndZeroActivationsStayFinite) {
  for (const DType dtype : cases::kWeightTypes) {
    SCOPED_TRACE(dtype_name(dtype));
    LinearRun run({dtype, 1, 9, 512, false}, Activations::kInt8);
    for (const float value : {0.0f, 1e-45f, 1e-38f, 1e-30f}) {
      std::ranges::fill(run.x_values(), value);
      for_each_simd_target([&] {
        for (const float result : run.decode(1)) EXPECT_LE(std::abs(result), value * 1e4f + 1e-34f);
      });
    }
  }
}

// The largest numbers a block can hold, so that a sum in too few bits would show.
TEST(Linear, ExtremeBlocksDoNotOverflow) {
  for (const DType dtype : cases::kWeightTypes) {
    if (!takes_int8(Activations::kInt8, dtype)) continue;
    SCOPED_TRACE(dtype_name(dtype));
    constexpr int64_t kRows = 3;
    constexpr int64_t kCols = 512;
    std::vector<std::byte> bytes(kRows * row_bytes(dtype, kCols));
    for (const int fill : {0xff, 0x80, 0x7f}) {
      std::ranges::fill(bytes, static_cast<std::byte>(fill));
      dispatch_quantized(dtype, [&](auto type) {
        const std::span blocks(reinterpret_cast<QuantBlock<type()>*>(bytes.data()),
                               bytes.size() / sizeof(QuantBlock<type()>));
        const uint16_t one = f32_to_f16(1);
        for (auto& block : blocks) {
          std::memcpy(block.d, &one, sizeof(one));
          if constexpr (requires { block.m; }) std::memcpy(block.m, &one, sizeof(one));
        }
      });
      const WeightView weight{bytes.data(), dtype, kRows, kCols};
      for (const bool alternating : {false, true}) {
        std::vector<float> x(kCols, -1.0f);
        for (size_t i = 0; alternating && i < x.size(); i += 2) x[i] = 1.0f;
        BackendLimits limits;
        limits.max_cols = kCols;
        ExecutionContext ctx(1);
        reference::LinearScratch reference_scratch;
        reference_scratch.reserve(ctx, limits);
        cpu::LinearScratch scratch;
        scratch.reserve(ctx, limits);
        const View<const float, 2> row(x.data(), 1, kCols);
        std::vector<float> expected(kRows);
        reference::linear(ctx, reference_scratch, Activations::kInt8, row, weight, false,
                          View<float, 2>(expected.data(), 1, kRows));
        for_each_simd_target([&] {
          std::vector<float> out = cases::poisoned(kRows);
          cpu::linear(ctx, scratch, Activations::kInt8, row, weight, false,
                      View<float, 2>(out.data(), 1, kRows));
          EXPECT_LE(cases::relative_error(out, expected), kTolerance);
        });
      }
    }
  }
}

TEST(LinearPrefill, AgreesWithReferenceForAnyThreads) {
  for (const LinearCase& c : cases::linear_cases()) {
    SCOPED_TRACE(c.name());
    const LinearRun run(c);
    const std::vector<float> expected = run.reference(Activations::kF32);
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
      const int64_t k = std::max(96, dtype_info(dtype).block_values);
      const LinearCase c{dtype, rows, 21, k, rows % 2 == 0};
      SCOPED_TRACE(c.name());
      const LinearRun run(c, Activations::kInt8);
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
  cpu::LinearScratch scratch;
  scratch.reserve(ctx, limits_for({DType::kF32, 1, 8, 8, false}));
  const auto multiply = [&](int64_t k, int64_t n) {
    cpu::linear(ctx, scratch, Activations::kAuto, View<const float, 2>(x.data(), 1, k),
                weight.view(), false, View<float, 2>(out.data(), 1, n));
  };
  EXPECT_NO_THROW(multiply(8, 4));
  EXPECT_THROW(multiply(7, 4), Error);
  EXPECT_THROW(multiply(8, 5), Error);
}

}  // namespace
}  // namespace freekv
