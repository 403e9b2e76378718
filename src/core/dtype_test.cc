#include "core/dtype.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "core/quantize.hpp"
#include "freekv/error.hpp"

namespace freekv {
namespace {

TEST(DType, F16RoundTripsEveryBitPattern) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = f16_to_f32(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value))));
    } else {
      EXPECT_EQ(f32_to_f16(value), bits);
    }
  }
}

TEST(DType, F16RoundsToNearestEven) {
  EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f), 0x3c00);             // a tie goes to the even neighbour
  EXPECT_EQ(f32_to_f16(1.0f + 3 * 0x1p-11f), 0x3c02);         // and up when that one is even
  EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f + 0x1p-20f), 0x3c01);  // past the tie
  EXPECT_EQ(f32_to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0x0000);
  EXPECT_EQ(f32_to_f16(0x1.8p-25f), 0x0001);
}

TEST(DType, BF16RoundTripsAndKeepsNaN) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = bf16_to_f32(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(value))));
    } else {
      EXPECT_EQ(f32_to_bf16(value), bits);
    }
  }
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
}

TEST(DType, RowBytes) {
  EXPECT_EQ(row_bytes(DType::kQ8_0, 64), 68u);
  EXPECT_EQ(row_bytes(DType::kQ6_K, 512), 420u);
  EXPECT_EQ(row_bytes(DType::kF16, 3), 6u);
  EXPECT_ANY_THROW(row_bytes(DType::kQ8_0, 33));
  EXPECT_ANY_THROW(row_bytes(DType::kQ4_K, 128));
}

// Against the gguf package, to the bit, in tests/parity/test_quants.py.
TEST(DType, QuantisedRowsAreOffByHalfAStepAtMost) {
  std::vector<float> values(96);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] =
        std::sin(static_cast<float>(i)) * std::ldexp(1.0f, static_cast<int>(i / 32) * 5 - 5);
  }
  for (const auto& [dtype, levels] : {std::pair{DType::kQ8_0, 254.0f},
                                      {DType::kQ4_0, 16.0f},
                                      {DType::kQ4_1, 15.0f},
                                      {DType::kQ5_0, 32.0f},
                                      {DType::kQ5_1, 31.0f}}) {
    SCOPED_TRACE(dtype_name(dtype));
    std::vector<std::byte> row(row_bytes(dtype, 96));
    quantize_row(dtype, values, row.data());
    std::vector<float> loaded(96);
    load_row(dtype, row.data(), loaded);
    for (size_t i = 0; i < values.size(); ++i) {
      const float range = std::ldexp(2.0f, static_cast<int>(i / 32) * 5 - 5);
      // Q4_0 and Q5_0 have one level more below zero than above: there a whole step can be lost.
      EXPECT_NEAR(loaded[i], values[i], range / levels * 1.01f);
      EXPECT_EQ(loaded[i], load_element(dtype, row.data(), static_cast<int64_t>(i)));
    }
  }
}

TEST(DType, QuantisingShowsWhatIsNotFiniteAndRefusesOtherTypes) {
  std::vector<float> values(64, 1.0f);
  values[40] = std::numeric_limits<float>::infinity();
  for (int i = 0; i < kDTypes; ++i) {
    const auto dtype = static_cast<DType>(i);
    if (!is_quantized(dtype)) continue;
    SCOPED_TRACE(dtype_name(dtype));
    if (!can_quantize(dtype)) {
      std::vector<float> whole(256, 1.0f);
      std::vector<std::byte> row(row_bytes(dtype, 256));
      EXPECT_THROW(quantize_row(dtype, whole, row.data()), Error);
      continue;
    }
    std::vector<std::byte> row(row_bytes(dtype, 64));
    quantize_row(dtype, values, row.data());
    EXPECT_NEAR(load_element(dtype, row.data(), 31), 1, 1e-2);
    for (int64_t k = 32; k < 64; ++k) EXPECT_TRUE(std::isnan(load_element(dtype, row.data(), k)));
    EXPECT_THROW(quantize_row(dtype, std::span(values).first(33), row.data()), Error);
  }
}

}  // namespace
}  // namespace freekv
