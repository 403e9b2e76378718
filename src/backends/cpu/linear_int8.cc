#include "backends/cpu/linear_int8.hpp"

#include <algorithm>

#include "backends/activations.hpp"
#include "backends/cpu/linear.hpp"
#include "core/check.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/linear_int8.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include <hwy/cache_control.h>

#include "backends/cpu/dot_int8_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

// quantize_activations(), and the sums of every 16 numbers.
void quantize_activation_row(const float* x, size_t n, size_t block, int8_t* q, float* scales,
                             int16_t* sums) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<int8_t, decltype(d)> di8;
  const size_t lanes = hn::Lanes(d);
  for (size_t b = 0; b < n / block; ++b) {
    auto largest = hn::Zero(di);
    for (size_t i = 0; i < block; i += lanes) {
      const auto bits = hn::BitCast(du, hn::LoadU(d, x + b * block + i));
      largest = hn::Max(largest, hn::BitCast(di, hn::And(bits, hn::Set(du, 0x7fffffffu))));
    }
    const auto scale =
        ActivationScale::of(static_cast<uint32_t>(hn::GetLane(hn::MaxOfLanes(di, largest))));
    scales[b] = scale.scale;
    if (scale.inverse == 0) {
      std::fill_n(q + b * block, block, int8_t{0});
      std::fill_n(sums + b * block / 16, block / 16, int16_t{0});
      continue;
    }
    const auto inverse = hn::Set(d, scale.inverse);
    for (size_t i = b * block; i < (b + 1) * block; i += 16) {
      auto sum = hn::Zero(di);
      for (size_t j = i; j < i + 16; j += lanes) {
        const auto rounded = hn::NearestInt(hn::Mul(hn::LoadU(d, x + j), inverse));
        sum = hn::Add(sum, rounded);
        hn::StoreU(hn::DemoteTo(di8, rounded), di8, q + j);
      }
      sums[i / 16] = static_cast<int16_t>(hn::GetLane(hn::SumOfLanes(di, sum)));
    }
  }
}

// out[t, 0] for kRows rows of x and one row of weights. Weights are read one row after another and
// so in one stream.
template <DType kType, size_t kRows>
HWY_INLINE void dot_row(const ActivationRow* x, const std::byte* row, size_t blocks,
                        bool accumulate, float* out, size_t out_stride) {
  const DSum d;
  VSum sums[kRows];
  for (size_t t = 0; t < kRows; ++t) sums[t] = hn::Zero(d);
  constexpr size_t kBlockBytes = dtype_info(kType).block_bytes;
  constexpr size_t kAhead = 4 << 10;
  for (size_t b = 0; b < blocks; ++b) {
    const std::byte* later = row + b * kBlockBytes + kAhead;
    for (size_t at = 0; at < kBlockBytes; at += 64) hwy::Prefetch(later + at);
    add_block<kType, kRows>(row, b, x, sums);
  }
  for (size_t t = 0; t < kRows; ++t) {
    const float sum = hn::GetLane(hn::SumOfLanes(d, sums[t]));
    float& to = out[t * out_stride];
    to = accumulate ? to + sum : sum;
  }
}

// Each element is one vector of sums in the order of k, whatever rows are taken together: so a
// row's result does not depend on the rows beside it.
template <DType kType>
void linear_rows(QuantizedRows& x, const WeightView& weight, int64_t begin, int64_t end,
                 bool accumulate, float* out) {
  const auto blocks = static_cast<size_t>(weight.cols / dtype_info(kType).block_values);
  const auto stride = static_cast<size_t>(weight.rows);
  const auto group = [&]<size_t kRows>(int64_t t, int64_t n, int64_t stop) {
    ActivationRow rows[kRows];
    for (size_t i = 0; i < kRows; ++i) rows[i] = x.row(t + static_cast<int64_t>(i));
    for (; n < stop; ++n) {
      dot_row<kType, kRows>(rows, weight.row(n), blocks, accumulate, out + t * weight.rows + n,
                            stride);
    }
  };
  for (int64_t n = begin; n < end; n += kWeightStrip) {
    const int64_t stop = std::min(end, n + kWeightStrip);
    int64_t t = 0;
    for (; t + 4 <= x.rows(); t += 4) group.template operator()<4>(t, n, stop);
    for (; t + 2 <= x.rows(); t += 2) group.template operator()<2>(t, n, stop);
    if (t < x.rows()) group.template operator()<1>(t, n, stop);
  }
}

void linear_range(QuantizedRows& x, const WeightView& weight, int64_t begin, int64_t end,
                  bool accumulate, float* out) {
  const auto with = [&]<DType kType>() {
    linear_rows<kType>(x, weight, begin, end, accumulate, out);
  };
  switch (weight.dtype) {
    case DType::kQ8_0:
      return with.template operator()<DType::kQ8_0>();
    case DType::kQ4_0:
      return with.template operator()<DType::kQ4_0>();
    case DType::kQ4_K:
      return with.template operator()<DType::kQ4_K>();
    case DType::kQ5_K:
      return with.template operator()<DType::kQ5_K>();
    case DType::kQ6_K:
      return with.template operator()<DType::kQ6_K>();
    default:
      fail(ErrorCode::kInternal, "{} has no dot product in integers", dtype_name(weight.dtype));
  }
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(quantize_activation_row);
HWY_EXPORT(linear_range);

namespace {

constexpr int64_t kSmallestBlock = 32;
constexpr int64_t kSummed = 16;

// Bytes of one row: numbers, scales, sums, each from a multiple of 64.
struct RowLayout {
  explicit RowLayout(int64_t cols) {
    const auto round_up = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
    scales = round_up(cols);
    sums = scales + round_up(cols / kSmallestBlock * static_cast<int64_t>(sizeof(float)));
    bytes = sums + round_up(cols / kSummed * static_cast<int64_t>(sizeof(int16_t)));
  }
  int64_t scales;
  int64_t sums;
  int64_t bytes;
};

}  // namespace

void QuantizedRows::reserve(const BackendLimits& limits) {
  max_rows_ = limits.max_rows;
  max_cols_ = limits.max_cols;
  buffer_ = Buffer(static_cast<size_t>(max_rows_ * RowLayout(max_cols_).bytes));
}

ActivationRow QuantizedRows::row(int64_t t) {
  const RowLayout layout(max_cols_);
  std::byte* base = buffer_.data() + t * layout.bytes;
  return {reinterpret_cast<int8_t*>(base), reinterpret_cast<float*>(base + layout.scales),
          reinterpret_cast<int16_t*>(base + layout.sums)};
}

void QuantizedRows::assign(ExecutionContext& ctx, View<const float, 2> x, int64_t block) {
  const int64_t cols = x.shape(1);
  check_internal(x.shape(0) <= max_rows_ && cols <= max_cols_,
                 "activations are [{}, {}], reserved [{}, {}]", x.shape(0), cols, max_rows_,
                 max_cols_);
  rows_ = x.shape(0);
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, cols));
  ctx.pool().parallel_for(rows_, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const ActivationRow to = row(t);
      HWY_DYNAMIC_DISPATCH(quantize_activation_row)
      (x[t].data(), static_cast<size_t>(cols), static_cast<size_t>(block), to.q, to.scales,
       to.sums);
    }
  });
}

void linear_int8(ExecutionContext& ctx, QuantizedRows& scratch, View<const float, 2> x,
                 const WeightView& weight, bool accumulate, View<float, 2> out) {
  scratch.assign(ctx, x, dtype_info(weight.dtype).block_values);
  ctx.pool().parallel_for(weight.rows, linear_grain(weight), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(linear_range)(scratch, weight, begin, end, accumulate, out.data());
  });
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
