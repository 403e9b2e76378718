#include "core/quantize.hpp"

#include <algorithm>
#include <cmath>

#include "core/quantized_block.hpp"

namespace freekv {
namespace {

constexpr int kValues = 32;

void store_f16(float value, uint8_t* out) {
  const uint16_t bits = f32_to_f16(value);
  std::memcpy(out, &bits, sizeof(bits));
}

// 0 where the scale is too small to invert: it is 0 in f16 too.
float inverse(float scale) {
  const float result = 1 / scale;
  return std::isfinite(result) ? result : 0.0f;
}

struct Range {
  float min;
  float max;
  float extreme;  // the first value of the largest magnitude, with its sign
  bool finite;
};

Range range_of(const float* x) {
  Range range{x[0], x[0], x[0], true};
  for (int i = 0; i < kValues; ++i) {
    range.finite = range.finite && std::isfinite(x[i]);
    range.min = std::min(range.min, x[i]);
    range.max = std::max(range.max, x[i]);
    if (std::abs(x[i]) > std::abs(range.extreme)) range.extreme = x[i];
  }
  return range;
}

void quantize_q8_0(const float* x, BlockQ8_0& out) {
  const float d = std::abs(range_of(x).extreme) / 127;
  const float scale = inverse(d);
  store_f16(d, out.d);
  // std::round takes halves away from zero, as ggml does.
  for (int i = 0; i < kValues; ++i) out.q[i] = static_cast<int8_t>(std::round(x[i] * scale));
}

// The types of four and five bits: q = x / d + kLevels / 2, or (x - min) / d with a minimum.
template <DType kType>
void quantize_small(const float* x, QuantBlock<kType>& out) {
  constexpr bool kFifth = kType == DType::kQ5_0 || kType == DType::kQ5_1;
  constexpr bool kHasMin = kType == DType::kQ4_1 || kType == DType::kQ5_1;
  constexpr int kLevels = kFifth ? 32 : 16;
  const Range range = range_of(x);
  const float d =
      kHasMin ? (range.max - range.min) / (kLevels - 1) : range.extreme / -(kLevels / 2);
  const float start = kHasMin ? range.min : 0.0f;
  const float half = kHasMin ? 0.5f : static_cast<float>(kLevels / 2) + 0.5f;
  const float scale = inverse(d);
  const auto level = [&](float value) {
    return std::min(kLevels - 1, static_cast<int>((value - start) * scale + half));
  };
  store_f16(d, out.d);
  if constexpr (kHasMin) store_f16(range.min, out.m);
  uint32_t high = 0;
  for (int i = 0; i < kValues / 2; ++i) {
    const int a = level(x[i]);
    const int b = level(x[i + kValues / 2]);
    out.q[i] = static_cast<uint8_t>((a & 15) | ((b & 15) << 4));
    high |= static_cast<uint32_t>(a >> 4) << i | static_cast<uint32_t>(b >> 4) << (i + 16);
  }
  if constexpr (kFifth) std::memcpy(out.high, &high, sizeof(high));
}

template <DType kType>
void quantize_block(const float* x, QuantBlock<kType>& out) {
  if (!range_of(x).finite) {
    out = {};
    store_f16(std::nanf(""), out.d);
  } else if constexpr (kType == DType::kQ8_0) {
    quantize_q8_0(x, out);
  } else {
    quantize_small<kType>(x, out);
  }
}

}  // namespace

bool can_quantize(DType dtype) { return dtype_info(dtype).block_values <= kValues; }

void quantize_row(DType dtype, std::span<const float> values, std::byte* row) {
  const auto n = static_cast<int64_t>(values.size());
  row_bytes(dtype, n);  // checks the length
  if (!is_quantized(dtype)) {
    for (int64_t i = 0; i < n; ++i) store_element(dtype, row, i, values[static_cast<size_t>(i)]);
    return;
  }
  dispatch_quantized(dtype, [&](auto type) {
    if constexpr (dtype_info(type()).block_values == kValues) {
      auto* blocks = reinterpret_cast<QuantBlock<type()>*>(row);
      for (int64_t b = 0; b < n / kValues; ++b) {
        quantize_block<type()>(values.data() + b * kValues, blocks[b]);
      }
    } else {
      fail(ErrorCode::kUnsupported,
           "cannot write {}, only F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1", dtype_name(dtype));
    }
  });
}

}  // namespace freekv
