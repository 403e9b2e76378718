// The one matrix kernel of prefill: C [rows, n] (+)= A [rows, k] B [k, n] in f32, with B packed in
// panels as wide as a tile of registers. Each element of C is one chain of multiply-adds in the
// order of k, so results depend neither on how work is cut nor on who does it.
// Included once per SIMD target, so the guard toggles.
#if defined(FREEKV_BACKENDS_CPU_GEMM_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef FREEKV_BACKENDS_CPU_GEMM_INL_HPP_
#undef FREEKV_BACKENDS_CPU_GEMM_INL_HPP_
#else
#define FREEKV_BACKENDS_CPU_GEMM_INL_HPP_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>

#include "backends/cpu/load_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

/// A tile is kTileRows rows by up to kTileVectors vectors: its sums, one row of B and one value of
/// A fill the registers (32 with AVX-512 and on Arm, else 16). Panels are packed four columns at a
/// time, so there are never fewer.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM || HWY_TARGET == HWY_SCALAR
inline constexpr size_t kTileVectors = 4;
#else
inline constexpr size_t kTileVectors = 2;
#endif
inline constexpr size_t kTileRows = 6;

/// Columns of a panel of packed B.
HWY_INLINE size_t panel_cols() { return kTileVectors * hn::Lanes(DF()); }

template <size_t kRows, size_t kVectors>
HWY_INLINE void gemm_tile(const float* HWY_RESTRICT a, size_t a_stride, const float* HWY_RESTRICT b,
                          size_t b_stride, size_t k, bool accumulate, float* HWY_RESTRICT c,
                          size_t c_stride) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  VF sums[kRows][kVectors];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = accumulate ? hn::LoadU(d, c + r * c_stride + v * lanes) : hn::Zero(d);
    }
  }
  for (size_t i = 0; i < k; ++i) {
    VF row[kVectors];
    for (size_t v = 0; v < kVectors; ++v) row[v] = hn::LoadU(d, b + i * b_stride + v * lanes);
    for (size_t r = 0; r < kRows; ++r) {
      const VF value = hn::Set(d, a[r * a_stride + i]);
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(value, row[v], sums[r][v]);
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(sums[r][v], d, c + r * c_stride + v * lanes);
    }
  }
}

/// Any number of rows against kVectors vectors of columns.
template <size_t kVectors>
void gemm_strip(size_t rows, const float* a, size_t a_stride, const float* b, size_t b_stride,
                size_t k, bool accumulate, float* c, size_t c_stride) {
  size_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    gemm_tile<kTileRows, kVectors>(a + r * a_stride, a_stride, b, b_stride, k, accumulate,
                                   c + r * c_stride, c_stride);
  }
  for (; r + 2 <= rows; r += 2) {
    gemm_tile<2, kVectors>(a + r * a_stride, a_stride, b, b_stride, k, accumulate, c + r * c_stride,
                           c_stride);
  }
  if (r < rows) {
    gemm_tile<1, kVectors>(a + r * a_stride, a_stride, b, b_stride, k, accumulate, c + r * c_stride,
                           c_stride);
  }
}

/// dst[i * dst_stride + r] = rows[r][i] for r < 4 and i < k.
HWY_INLINE void transpose_four(const float* const rows[4], size_t k, float* HWY_RESTRICT dst,
                               size_t dst_stride) {
  size_t i = 0;
  const hn::CappedTag<float, 4> d;
  if (hn::Lanes(d) == 4) {
#if HWY_TARGET != HWY_SCALAR
    const hn::RepartitionToWide<decltype(d)> dw;
    for (; i + 4 <= k; i += 4) {
      const auto r0 = hn::LoadU(d, rows[0] + i);
      const auto r1 = hn::LoadU(d, rows[1] + i);
      const auto r2 = hn::LoadU(d, rows[2] + i);
      const auto r3 = hn::LoadU(d, rows[3] + i);
      const auto low01 = hn::BitCast(dw, hn::InterleaveLower(d, r0, r1));
      const auto low23 = hn::BitCast(dw, hn::InterleaveLower(d, r2, r3));
      const auto high01 = hn::BitCast(dw, hn::InterleaveUpper(d, r0, r1));
      const auto high23 = hn::BitCast(dw, hn::InterleaveUpper(d, r2, r3));
      float* to = dst + i * dst_stride;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, low01, low23)), d, to);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, low01, low23)), d, to + dst_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, high01, high23)), d, to + 2 * dst_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, high01, high23)), d, to + 3 * dst_stride);
    }
#endif
  }
  for (; i < k; ++i) {
    for (size_t r = 0; r < 4; ++r) dst[i * dst_stride + r] = rows[r][i];
  }
}

/// Packs `count` rows as columns of a panel: dst[i * panel_cols() + r] = row r's value i for i < k,
/// where load(r, first, n, out) writes n of its values from `first`, a multiple of 512. Columns
/// from `count` on are zero.
template <class Load>
HWY_INLINE void pack_panel(size_t count, size_t k, const Load& load, float* HWY_RESTRICT dst) {
  constexpr size_t kSegment = 512;
  HWY_ALIGN float floats[4][kSegment];
  const size_t cols = panel_cols();
  for (size_t r = 0; r < cols; r += 4) {
    for (size_t first = 0; first < k; first += kSegment) {
      const size_t length = std::min(kSegment, k - first);
      const float* sources[4];
      for (size_t i = 0; i < 4; ++i) {
        sources[i] = floats[i];
        if (r + i < count) {
          load(r + i, first, length, floats[i]);
        } else {
          std::fill_n(floats[i], length, 0.0f);
        }
      }
      transpose_four(sources, length, dst + first * cols + r, cols);
    }
  }
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
