// Embedding, norms, rotation and gating against the scalar reference.
#include "backends/cpu/elementwise.hpp"

#include <gtest/gtest.h>

#include "backends/op_cases.hpp"
#include "backends/op_test.hpp"
#include "backends/reference/elementwise.hpp"
#include "freekv/error.hpp"

namespace freekv {
namespace {

struct Size {
  int64_t rows, n;
};
// Around vectors of 4, 8 and 16 values; rows enough to be shared among threads in the last two.
constexpr Size kSizes[] = {{1, 1},  {1, 15},  {2, 16},  {3, 17},    {1, 33},
                           {5, 31}, {4, 384}, {1, 513}, {100, 384}, {70, 1024}};

std::vector<float> run(int threads, int64_t size,
                       const std::function<void(ExecutionContext&, float*)>& op) {
  ExecutionContext ctx(threads);
  std::vector<float> out = cases::poisoned(size);
  op(ctx, out.data());
  return out;
}

// Compares on every SIMD target and thread count.
void expect_parity(int64_t size, double tolerance,
                   const std::function<void(ExecutionContext&, float*)>& expected_op,
                   const std::function<void(ExecutionContext&, float*)>& op) {
  const std::vector<float> expected = run(1, size, expected_op);
  for_each_simd_target([&] {
    const std::vector<float> one = run(1, size, op);
    EXPECT_LE(cases::relative_error(one, expected), tolerance);
    for (const int threads : cases::kThreads) EXPECT_TRUE(same_bits(run(threads, size, op), one));
  });
}

TEST(Embed, IsExact) {
  for (const DType dtype : cases::kWeightTypes) {
    for (const Size& s : kSizes) {
      const int64_t block = dtype_info(dtype).block_values;
      const int64_t n = (s.n + block - 1) / block * block;
      SCOPED_TRACE(std::string(dtype_name(dtype)) + " n=" + std::to_string(n));
      const cases::Matrix table(dtype, 50, n, 1);
      std::vector<int32_t> ids(static_cast<size_t>(s.rows));
      for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7 % 50);
      const auto with = [&](auto op) {
        return [&, op](ExecutionContext& ctx, float* out) {
          op(ctx, table.view(), ids, View<float, 2>(out, s.rows, n));
        };
      };
      expect_parity(s.rows * n, 0, with(reference::embed), with(cpu::embed));
    }
  }
}

TEST(RmsNorm, AgreesWithReference) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(s.n);
    const std::vector<float> x = cases::random_floats(s.rows * s.n, 1, 3.0f);
    const std::vector<float> weight = cases::random_floats(s.n, 2);
    const auto with = [&](auto op) {
      return [&, op](ExecutionContext& ctx, float* out) {
        op(ctx, View<const float, 2>(x.data(), s.rows, s.n),
           View<const float, 1>(weight.data(), s.n), 1e-5f, View<float, 2>(out, s.rows, s.n));
      };
    };
    expect_parity(s.rows * s.n, 4e-6, with(reference::rms_norm), with(cpu::rms_norm));
  }
}

TEST(RmsNorm, MayWriteOverItsInput) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(s.n);
    const std::vector<float> x = cases::random_floats(s.rows * s.n, 1, 3.0f);
    const std::vector<float> weight = cases::random_floats(s.n, 2);
    const auto in_place = [&](auto op) {
      return [&, op](ExecutionContext& ctx, float* out) {
        std::ranges::copy(x, out);
        op(ctx, View<const float, 2>(out, s.rows, s.n), View<const float, 1>(weight.data(), s.n),
           1e-5f, View<float, 2>(out, s.rows, s.n));
      };
    };
    expect_parity(s.rows * s.n, 4e-6, in_place(reference::rms_norm), in_place(cpu::rms_norm));
  }
}

TEST(AddBias, IsExact) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(s.n);
    const std::vector<float> x = cases::random_floats(s.rows * s.n, 1);
    const std::vector<float> bias = cases::random_floats(s.n, 2);
    const auto with = [&](auto op) {
      return [&, op](ExecutionContext& ctx, float* out) {
        std::ranges::copy(x, out);
        op(ctx, View<const float, 1>(bias.data(), s.n), View<float, 2>(out, s.rows, s.n));
      };
    };
    expect_parity(s.rows * s.n, 0, with(reference::add_bias), with(cpu::add_bias));
  }
}

TEST(Swiglu, AgreesWithReferenceAlsoInPlace) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(s.n);
    std::vector<float> gate = cases::random_floats(s.rows * s.n, 1, 4.0f);
    gate[0] = -200;  // silu underflows to zero there
    gate.back() = 200;
    const std::vector<float> up = cases::random_floats(s.rows * s.n, 2);
    const auto with = [&](auto op) {
      return [&, op](ExecutionContext& ctx, float* out) {
        op(ctx, View<const float, 2>(gate.data(), s.rows, s.n),
           View<const float, 2>(up.data(), s.rows, s.n), View<float, 2>(out, s.rows, s.n));
      };
    };
    const auto in_place = [&](ExecutionContext& ctx, float* out) {
      std::ranges::copy(gate, out);
      cpu::swiglu(ctx, View<const float, 2>(out, s.rows, s.n),
                  View<const float, 2>(up.data(), s.rows, s.n), View<float, 2>(out, s.rows, s.n));
    };
    expect_parity(s.rows * s.n, 2e-6, with(reference::swiglu), with(cpu::swiglu));
    expect_parity(s.rows * s.n, 2e-6, with(reference::swiglu), in_place);
  }
}

TEST(Rope, AgreesWithReferenceInBothStyles) {
  for (const int64_t d : {2, 6, 64, 80, 96, 128, 256}) {
    for (const RopeStyle style : {RopeStyle::kInterleaved, RopeStyle::kHalves}) {
      for (const int64_t rows : {1, 5, 70}) {
        SCOPED_TRACE(d);
        constexpr int64_t kHeads = 7;
        constexpr int64_t kPositions = 40;
        std::vector<float> cos(static_cast<size_t>(kPositions * d / 2));
        std::vector<float> sin(cos.size());
        for (size_t i = 0; i < cos.size(); ++i) {
          cos[i] = std::cos(0.37f * static_cast<float>(i));
          sin[i] = std::sin(0.37f * static_cast<float>(i));
        }
        const RopeTable table{View<const float, 2>(cos.data(), kPositions, d / 2),
                              View<const float, 2>(sin.data(), kPositions, d / 2)};
        std::vector<int64_t> positions(static_cast<size_t>(rows));
        for (size_t i = 0; i < positions.size(); ++i) {
          positions[i] = static_cast<int64_t>(i * 11 % kPositions);
        }
        const std::vector<float> x = cases::random_floats(rows * kHeads * d, 1);
        const auto with = [&](auto op) {
          return [&, op](ExecutionContext& ctx, float* out) {
            std::ranges::copy(x, out);
            op(ctx, View<float, 3>(out, rows, kHeads, d), positions, table, style);
          };
        };
        expect_parity(rows * kHeads * d, 1e-6, with(reference::rope), with(cpu::rope));
      }
    }
  }
}

TEST(Rope, RefusesPositionsBeyondTheTable) {
  std::vector<float> x(4);
  const std::vector<float> table(4, 1.0f);
  const RopeTable two{View<const float, 2>(table.data(), 2, 2),
                      View<const float, 2>(table.data(), 2, 2)};
  ExecutionContext ctx(1);
  const int64_t last[] = {1};
  const int64_t beyond[] = {2};
  EXPECT_NO_THROW(cpu::rope(ctx, View<float, 3>(x.data(), 1, 1, 4), last, two, RopeStyle::kHalves));
  EXPECT_THROW(cpu::rope(ctx, View<float, 3>(x.data(), 1, 1, 4), beyond, two, RopeStyle::kHalves),
               Error);
}

}  // namespace
}  // namespace freekv
