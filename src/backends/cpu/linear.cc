#include "backends/cpu/linear.hpp"

#include <algorithm>

#include "backends/cpu/dequantize.hpp"
#include "backends/projection_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/linear.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include <hwy/cache_control.h>

#include "backends/cpu/load_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

// How many rows of x share a pass over weight rows: their sums must fit in the registers.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM
constexpr size_t kMaxRows = 4;
#else
constexpr size_t kMaxRows = 2;
#endif

// The sums of the lanes of four vectors.
HWY_INLINE void sum_four(const VF* v, float* out) {
#if HWY_TARGET == HWY_SCALAR
  for (size_t i = 0; i < 4; ++i) out[i] = hn::GetLane(v[i]);
#else
  const DF d;
  const hn::RepartitionToWide<DF> dw;
  const auto pairs = [&](VF a, VF b) {
    return hn::BitCast(dw, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  };
  const auto low = pairs(v[0], v[1]);
  const auto high = pairs(v[2], v[3]);
  // Each 128-bit block now has a part of the four sums.
  const VF sums = hn::Add(hn::BitCast(d, hn::InterleaveLower(dw, low, high)),
                          hn::BitCast(d, hn::InterleaveUpper(dw, low, high)));
  const hn::CappedTag<float, 4> d4;
  HWY_ALIGN float blocks[kBlock];
  hn::Store(sums, d, blocks);
  auto total = hn::Load(d4, blocks);
  for (size_t i = 4; i < hn::Lanes(d); i += 4) total = hn::Add(total, hn::Load(d4, blocks + i));
  hn::StoreU(total, d4, out);
#endif
}

// out[t, n] for kRows rows of x and `count` of kWeights weight rows. Each element has one vector of
// partial sums, filled in the order of k and then summed, whatever the sizes of the blocks: so a
// row's result does not depend on the rows beside it.
template <DType kType, size_t kRows, size_t kWeights>
HWY_INLINE void linear_block(const float* x, size_t cols, const std::byte* weight, size_t stride,
                             size_t count, bool accumulate, float* out, size_t out_stride) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  VF sums[kRows][kWeights];
  const std::byte* rows[kWeights];
  for (size_t n = 0; n < kWeights; ++n) {
    rows[n] = weight + std::min(n, count - 1) * stride;
    for (size_t t = 0; t < kRows; ++t) sums[t][n] = hn::Zero(d);
  }
  const size_t blocks = cols / kBlock;
  // The weights come from memory once a token. Their rows are short, so that the hardware sees no
  // streams in them: what is read some KiB from here is asked for in step with the reading.
  constexpr size_t kAhead = 6 << 10;
  constexpr size_t kBytes = kWeights * Block<kType>::kBytes;
  for (size_t b = 0; b < blocks; ++b) {
    if constexpr (kRows == 1) {
      const std::byte* later = weight + kAhead + b * kBytes;
      for (size_t at = 0; at < kBytes; at += 64) hwy::Prefetch(later + at);
    }
    for (size_t j = 0; j < kBlock; j += lanes) {
      VF xs[kRows];
      for (size_t t = 0; t < kRows; ++t) xs[t] = hn::LoadU(d, x + t * cols + b * kBlock + j);
      for (size_t n = 0; n < kWeights; ++n) {
        const VF w = Block<kType>(rows[n], b).load(d, j);
        for (size_t t = 0; t < kRows; ++t) sums[t][n] = hn::MulAdd(w, xs[t], sums[t][n]);
      }
    }
  }
  if (const size_t tail = cols % kBlock; tail != 0) {
    HWY_ALIGN float padded_x[kBlock] = {};
    HWY_ALIGN float padded_w[kBlock] = {};
    for (size_t n = 0; n < kWeights; ++n) {
      load_floats<kType>(rows[n], blocks * kBlock, tail, padded_w);
      for (size_t t = 0; t < kRows; ++t) {
        std::copy_n(x + t * cols + blocks * kBlock, tail, padded_x);
        for (size_t j = 0; j < tail; j += lanes) {
          sums[t][n] = hn::MulAdd(hn::Load(d, padded_w + j), hn::Load(d, padded_x + j), sums[t][n]);
        }
      }
    }
  }
  for (size_t t = 0; t < kRows; ++t) {
    float results[kWeights];
    for (size_t n = 0; n < kWeights; n += 4) sum_four(sums[t] + n, results + n);
    float* to = out + t * out_stride;
    for (size_t n = 0; n < count; ++n) to[n] = accumulate ? to[n] + results[n] : results[n];
  }
}

// At least eight independent sums, to hide the latency of an addition.
template <DType kType, size_t kRows>
HWY_INLINE void linear_rows(const float* x, const WeightView& weight, int64_t begin, int64_t end,
                            bool accumulate, float* out, int64_t out_stride) {
  constexpr size_t kWeights = kRows == 1 ? 8 : 4;
  const auto cols = static_cast<size_t>(weight.cols);
  for (int64_t n = begin; n < end; n += kWeights) {
    linear_block<kType, kRows, kWeights>(x, cols, weight.row(n), weight.stride(),
                                         std::min(kWeights, static_cast<size_t>(end - n)),
                                         accumulate, out + n, static_cast<size_t>(out_stride));
  }
}

// Weight rows are taken few at a time through all rows of x, so that they come from memory once.
template <DType kType>
void linear_range(View<const float, 2> x, const WeightView& weight, int64_t begin, int64_t end,
                  bool accumulate, float* out, int64_t out_stride) {
  const int64_t rows = x.shape(0);
  for (int64_t n = begin; n < end; n += kWeightStrip) {
    const int64_t stop = std::min(end, n + kWeightStrip);
    int64_t t = 0;
    const auto at = [&](int64_t i) { return x.data() + i * weight.cols; };
    if constexpr (kMaxRows == 4) {
      for (; t + 4 <= rows; t += 4) {
        linear_rows<kType, 4>(at(t), weight, n, stop, accumulate, out + t * out_stride, out_stride);
      }
    }
    for (; t + 2 <= rows; t += 2) {
      linear_rows<kType, 2>(at(t), weight, n, stop, accumulate, out + t * out_stride, out_stride);
    }
    if (t < rows) {
      linear_rows<kType, 1>(at(t), weight, n, stop, accumulate, out + t * out_stride, out_stride);
    }
  }
}

// out[t * out_stride + n] for all rows of x and weight rows [begin, end).
void linear_any(View<const float, 2> x, const WeightView& weight, int64_t begin, int64_t end,
                bool accumulate, float* out, int64_t out_stride) {
  dispatch_block_dtype(weight.dtype, [&](auto type) {
    linear_range<type()>(x, weight, begin, end, accumulate, out, out_stride);
  });
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(linear_any);

namespace {

// Weight rows [begin, end), a few at a time as f32 in `strip`.
void linear_strips(float* strip, View<const float, 2> x, const WeightView& weight, int64_t begin,
                   int64_t end, bool accumulate, float* out) {
  for (int64_t n = begin; n < end; n += kWeightStrip) {
    const int64_t count = std::min(kWeightStrip, end - n);
    for (int64_t i = 0; i < count; ++i) {
      dequantize(weight, n + i, 0, {strip + i * weight.cols, static_cast<size_t>(weight.cols)});
    }
    const WeightView rows{reinterpret_cast<const std::byte*>(strip), DType::kF32, count,
                          weight.cols};
    HWY_DYNAMIC_DISPATCH(linear_any)(x, rows, 0, count, accumulate, out + n, weight.rows);
  }
}

}  // namespace

void LinearScratch::reserve(ExecutionContext& ctx, const BackendLimits& limits) {
  activations.reserve(limits);
  weights =
      Buffer(static_cast<size_t>(ctx.threads() * kWeightStrip * limits.max_cols) * sizeof(float));
}

int64_t linear_grain(const WeightView& weight) {
  constexpr int64_t kBytesPerPart = 16 << 10;
  const auto row_bytes = static_cast<int64_t>(std::max<size_t>(1, weight.stride()));
  return std::max(kWeightStrip, kBytesPerPart / row_bytes / kWeightStrip * kWeightStrip);
}

void linear(ExecutionContext& ctx, LinearScratch& scratch, Activations activations,
            View<const float, 2> x, const WeightView& weight, bool accumulate, View<float, 2> out) {
  check_linear(x, weight, out);
  if (takes_int8(activations, weight.dtype)) {
    linear_int8(ctx, scratch.activations, x, weight, accumulate, out);
    return;
  }
  const bool in_strips = !is_read_in_vectors(weight.dtype);
  const std::span<float> strips = scratch.weights.as<float>();
  const auto strip_size = static_cast<size_t>(kWeightStrip * weight.cols);
  check_internal(!in_strips || static_cast<size_t>(ctx.threads()) * strip_size <= strips.size(),
                 "a linear layer of {} columns, reserved {} bytes", weight.cols,
                 scratch.weights.bytes());
  const auto part = [&](int64_t begin, int64_t end, int worker) {
    if (in_strips) {
      linear_strips(strips.data() + static_cast<size_t>(worker) * strip_size, x, weight, begin, end,
                    accumulate, out.data());
    } else {
      HWY_DYNAMIC_DISPATCH(linear_any)
      (x, weight, begin, end, accumulate, out.data(), weight.rows);
    }
  };
  ctx.pool().parallel_for(weight.rows, linear_grain(weight), part);
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
