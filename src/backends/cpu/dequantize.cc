#include "backends/cpu/dequantize.hpp"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/dequantize.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/load_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

using DI = hn::Rebind<int32_t, DF>;
using VI = hn::Vec<DI>;

// As many bytes as DF has lanes, each in 32 bits and shifted down.
HWY_INLINE VI load_bytes(const uint8_t* bytes, int shift) {
  const hn::Rebind<uint8_t, DF> narrow;
  return hn::ShiftRightSame(hn::PromoteTo(DI(), hn::LoadU(narrow, bytes)), shift);
}

// Vector j ... of the unsigned integers of unpack_piece(), from the same bytes.
template <DType kType>
HWY_INLINE VI load_quants(const QuantBlock<kType>& block, size_t part, size_t j) {
  const DI d;
  const VI low_mask = hn::Set(d, 15);
  const auto with_high = [&](VI low, VI high) {
    return hn::Or(hn::And(low, low_mask), hn::ShiftLeft<4>(high));
  };
  if constexpr (kType == DType::kQ6_K) {
    const uint8_t* low = block.low + part / 4 * 64 + part % 2 * 32;
    const uint8_t* high = block.high + part / 4 * 32;
    return with_high(load_bytes(low + j, static_cast<int>(part % 4 / 2 * 4)),
                     hn::And(load_bytes(high + j, static_cast<int>(part % 4 * 2)), hn::Set(d, 3)));
  } else if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    const VI low = load_bytes(block.q + part / 2 * 32 + j, static_cast<int>(part % 2 * 4));
    if constexpr (kType == DType::kQ4_K) return hn::And(low, low_mask);
    if constexpr (kType == DType::kQ5_K) {
      const VI high = load_bytes(block.high + j, static_cast<int>(part));
      return with_high(low, hn::And(high, hn::Set(d, 1)));
    }
  } else {
    const VI low = load_bytes(block.q + j % 16, static_cast<int>(j / 16 * 4));
    if constexpr (kType == DType::kQ4_0 || kType == DType::kQ4_1) return hn::And(low, low_mask);
    if constexpr (kType == DType::kQ5_0 || kType == DType::kQ5_1) {
      // Bit j + lane, whose place in a word of 16 is the same in both halves.
      HWY_ALIGN static constexpr int32_t kBits[16] = {
          1 << 0, 1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
          1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
      const VI bits = hn::Set(d, load_u16(block.high + j / 16 * 2));
      const VI bit = hn::LoadU(d, kBits + j % 16);
      const VI set = hn::VecFromMask(d, hn::Eq(hn::And(bits, bit), bit));
      return with_high(low, hn::And(set, hn::Set(d, 1)));
    }
  }
}

template <DType kType>
HWY_INLINE void dequantize_pieces(const std::byte* row, size_t first, std::span<float> out) {
  constexpr size_t kParts = dtype_info(kType).block_values / kPiece;
  const DF d;
  const size_t lanes = hn::Lanes(d);  // 16 at most, so that a vector has one scale
  HWY_ALIGN float tail[kBlock];
  for (size_t done = 0; done < out.size(); done += kBlock) {
    const size_t piece = (first + done) / kBlock;
    const auto& block = quant_block<kType>(row, static_cast<int64_t>(piece / kParts));
    const size_t part = piece % kParts;
    const PieceScales scales = piece_scales<kType>(block, static_cast<int>(part));
    const bool whole = done + kBlock <= out.size();
    float* to = whole ? out.data() + done : tail;
    const VF min = hn::Set(d, scales.min);
    for (size_t j = 0; j < kBlock; j += lanes) {
      const VI quants = load_quants<kType>(block, part, j);
      const VF q = hn::ConvertTo(d, hn::Sub(quants, hn::Set(DI(), kQuantOffset<kType>)));
      hn::StoreU(hn::Sub(hn::Mul(q, hn::Set(d, scales.scale[j / 16])), min), d, to + j);
    }
    if (!whole) std::copy_n(tail, out.size() - done, out.data() + done);
  }
}

void dequantize_row(DType dtype, const std::byte* row, size_t first, std::span<float> out) {
  if (is_read_in_vectors(dtype)) {
    dispatch_block_dtype(
        dtype, [&](auto type) { load_floats<type()>(row, first, out.size(), out.data()); });
  } else {
    dispatch_quantized(dtype, [&](auto type) {
      if constexpr (!is_read_in_vectors(type())) dequantize_pieces<type()>(row, first, out);
    });
  }
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(dequantize_row);

void dequantize(const WeightView& weight, int64_t row, int64_t first, std::span<float> out) {
  HWY_DYNAMIC_DISPATCH(dequantize_row)
  (weight.dtype, weight.row(row), static_cast<size_t>(first), out);
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
