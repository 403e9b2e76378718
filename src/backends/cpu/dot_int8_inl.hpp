// Dot products of one block of quantised weights with activations in 8 bits. Included once per SIMD
// target, so the guard toggles.
#if defined(FREEKV_BACKENDS_CPU_DOT_INT8_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef FREEKV_BACKENDS_CPU_DOT_INT8_INL_HPP_
#undef FREEKV_BACKENDS_CPU_DOT_INT8_INL_HPP_
#else
#define FREEKV_BACKENDS_CPU_DOT_INT8_INL_HPP_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "backends/cpu/linear_int8.hpp"
#include "core/quantized_block.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Vectors of 32 bytes at most: the parts of a block that share a scale are that or half of it.
using DU8 = hn::CappedTag<uint8_t, 32>;
using DI8 = hn::RebindToSigned<DU8>;
using DSum = hn::CappedTag<float, 8>;  // sums of products, scaled
using VSum = hn::Vec<DSum>;

#if HWY_TARGET == HWY_SCALAR

/// sums[t] += block `b` of a row of weights times the same block of row t of x.
template <DType kType, size_t kRows>
HWY_INLINE void add_block(const std::byte* row, size_t b, const ActivationRow* x, VSum* sums) {
  constexpr int kPieces = dtype_info(kType).block_values / kPiece;
  for (int p = 0; p < kPieces; ++p) {
    QuantPiece piece;
    const auto at = static_cast<int64_t>(b) * kPieces + p;
    unpack_piece<kType>(row, at, piece);
    for (size_t t = 0; t < kRows; ++t) {
      int32_t products[2] = {};
      for (int i = 0; i < kPiece; ++i) products[i / 16] += piece.q[i] * x[t].q[at * kPiece + i];
      const int32_t sum = x[t].sums[2 * at] + x[t].sums[2 * at + 1];
      const float value = static_cast<float>(products[0]) * piece.scales.scale[0] +
                          static_cast<float>(products[1]) * piece.scales.scale[1] -
                          static_cast<float>(sum) * piece.scales.min;
      sums[t] = hn::Add(sums[t], hn::Set(DSum(), value * x[t].scales[b]));
    }
  }
}

#else

using DI16 = hn::Repartition<int16_t, DU8>;
using DU16 = hn::Repartition<uint16_t, DU8>;
using DI32 = hn::Repartition<int32_t, DU8>;
using DU32 = hn::Repartition<uint32_t, DU8>;
using VU8 = hn::Vec<DU8>;
using VI8 = hn::Vec<DI8>;
using VI16 = hn::Vec<DI16>;
using VI32 = hn::Vec<DI32>;
inline constexpr size_t kBytes = hn::MaxLanes(DU8());  // 16 or 32
inline constexpr size_t kWords = kBytes / 4;           // lanes of 32 bits

/// w[2i] * a[2i] + w[2i + 1] * a[2i + 1]; must fit 16 bits.
HWY_INLINE VI16 multiply_pairs(VU8 w, VI8 a) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  return VI16{_mm256_maddubs_epi16(w.raw, a.raw)};
#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_SSSE3
  return VI16{_mm_maddubs_epi16(w.raw, a.raw)};
#else
  const DI16 d;
  const DU16 du;
  const VI16 a16 = hn::BitCast(d, a);
  const auto w16 = hn::BitCast(du, w);
  const VI16 even = hn::Mul(hn::BitCast(d, hn::And(w16, hn::Set(du, 0xff))),
                            hn::ShiftRight<8>(hn::ShiftLeft<8>(a16)));
  const VI16 odd = hn::Mul(hn::BitCast(d, hn::ShiftRight<8>(w16)), hn::ShiftRight<8>(a16));
  return hn::Add(even, odd);
#endif
}

/// a with the signs of w; 0 where w is.
HWY_INLINE VI8 with_signs(VI8 a, VI8 w) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  return VI8{_mm256_sign_epi8(a.raw, w.raw)};
#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_SSSE3
  return VI8{_mm_sign_epi8(a.raw, w.raw)};
#else
  const auto negative = hn::VecFromMask(DI8(), hn::Lt(w, hn::Zero(DI8())));
  return hn::Sub(hn::Xor(a, negative), negative);
#endif
}

/// Each byte shifted by so little that no bit leaves it: the general shift masks what did.
template <int kBits>
HWY_INLINE VU8 shift_up(VU8 v) {
  return hn::BitCast(DU8(), hn::ShiftLeft<kBits>(hn::BitCast(DU16(), v)));
}

/// A sum of products of 16-bit numbers, in lanes of 32 bits.
class IntegerSum {
 public:
  HWY_INLINE IntegerSum() : even_(hn::Zero(DI32())), odd_(hn::Zero(DI32())) {}
  /// Adds a[2i] * b[2i] + a[2i + 1] * b[2i + 1], in whatever lanes.
  HWY_INLINE void add(VI16 a, VI16 b) {
    even_ = hn::ReorderWidenMulAccumulate(DI32(), a, b, even_, odd_);
  }
  HWY_INLINE VI32 lanes() const { return hn::Add(even_, odd_); }

 private:
  VI32 even_;
  VI32 odd_;  // stays 0 on x86
};

/// An f16 in every lane, as f32: a vector conversion, since the scalar one is a chain of branches.
HWY_INLINE VSum broadcast_f16(const uint8_t* bits) {
  const hn::Rebind<hwy::float16_t, DSum> df16;
  const hn::Rebind<uint16_t, DSum> du16;
  return hn::PromoteTo(DSum(), hn::BitCast(df16, hn::Set(du16, load_u16(bits))));
}

/// A number of 16 bits in both halves of every lane.
HWY_INLINE VI16 broadcast_pair(uint32_t twice) {
  return hn::BitCast(DI16(), hn::Set(DU32(), twice));
}

HWY_INLINE void add_scaled(VI32 products, VSum scale, VSum& sum) {
  sum = hn::MulAdd(hn::ConvertTo(DSum(), products), scale, sum);
}

HWY_INLINE VI8 load_q(const ActivationRow& x, size_t at) { return hn::LoadU(DI8(), x.q + at); }

template <size_t kRows>
HWY_INLINE void add_to(const BlockQ8_0& block, size_t b, const ActivationRow* x, VSum* sums) {
  const VSum d = broadcast_f16(block.d);
  IntegerSum products[kRows];
  for (size_t i = 0; i < kPiece; i += kBytes) {
    const VI8 w = hn::LoadU(DI8(), block.q + i);
    const VU8 magnitude = hn::BitCast(DU8(), hn::Abs(w));  // -128 becomes 128
    for (size_t t = 0; t < kRows; ++t) {
      const VI8 a = with_signs(load_q(x[t], b * kPiece + i), w);
      products[t].add(multiply_pairs(magnitude, a), hn::Set(DI16(), 1));
    }
  }
  for (size_t t = 0; t < kRows; ++t) {
    add_scaled(products[t].lanes(), hn::Mul(d, hn::Set(DSum(), x[t].scales[b])), sums[t]);
  }
}

template <size_t kRows>
HWY_INLINE void add_to(const BlockQ4_0& block, size_t b, const ActivationRow* x, VSum* sums) {
  const VSum d = broadcast_f16(block.d);
  const DU8 d8;
  const VU8 packed = hn::LoadDup128(d8, block.q);
  const VU8 high = hn::ShiftRight<4>(packed);
  VU8 q[kPiece / kBytes];
  q[kPiece / kBytes - 1] = high;
  q[0] = hn::OddEvenBlocks(high, hn::And(packed, hn::Set(d8, 15)));
  for (size_t t = 0; t < kRows; ++t) {
    IntegerSum products;
    for (size_t i = 0; i < kPiece / kBytes; ++i) {
      products.add(multiply_pairs(q[i], load_q(x[t], b * kPiece + i * kBytes)), hn::Set(DI16(), 1));
    }
    // The offset 8, in equal parts for all lanes: both sums of 16 values times 8 / kWords.
    uint32_t pair = 0;
    std::memcpy(&pair, x[t].sums + 2 * b, sizeof(pair));
    products.add(broadcast_pair(pair), hn::Set(DI16(), -static_cast<int16_t>(8 / kWords)));
    add_scaled(products.lanes(), hn::Mul(d, hn::Set(DSum(), x[t].scales[b])), sums[t]);
  }
}

// Q4_K and Q5_K.
template <size_t kRows, class KBlock>
HWY_INLINE void add_k_block(const KBlock& block, size_t b, const ActivationRow* x, VSum* sums) {
  constexpr bool kFifth = std::is_same_v<KBlock, BlockQ5_K>;
  const hn::Rebind<uint8_t, DU32> narrow;
  const DU32 du32;
  const KScales packed = unpack_k_scales(block.scales);
  const auto twice = [&](const uint8_t* bytes) {
    const auto wide = hn::PromoteTo(du32, hn::LoadU(narrow, bytes));
    return hn::Or(wide, hn::ShiftLeft<16>(wide));
  };
  HWY_ALIGN uint32_t scales[8];
  IntegerSum mins[kRows];
  for (size_t i = 0; i < 8; i += kWords) {
    hn::Store(twice(packed.scales + i), du32, scales + i);
    const VI16 min = hn::BitCast(DI16(), twice(packed.mins + i));
    for (size_t t = 0; t < kRows; ++t) {
      mins[t].add(min, hn::LoadU(DI16(), x[t].sums + 16 * b + 2 * i));
    }
  }
  IntegerSum products[kRows];
  for (size_t v = 0; v < 32; v += kBytes) {
    VU8 high = hn::Zero(DU8());
    if constexpr (kFifth) high = hn::LoadU(DU8(), block.high + v);
    for (size_t c = 0; c < 4; ++c) {
      const VU8 q = hn::LoadU(DU8(), block.q + 32 * c + v);
      VU8 even = hn::And(q, hn::Set(DU8(), 15));
      VU8 odd = hn::ShiftRight<4>(q);
      if constexpr (kFifth) {
        even = hn::Or(even, hn::ShiftLeft<4>(hn::And(high, hn::Set(DU8(), 1))));
        odd = hn::Or(odd, hn::ShiftLeft<3>(hn::And(high, hn::Set(DU8(), 2))));
        high = hn::ShiftRight<2>(high);
      }
      const VI16 even_scale = broadcast_pair(scales[2 * c]);
      const VI16 odd_scale = broadcast_pair(scales[2 * c + 1]);
      for (size_t t = 0; t < kRows; ++t) {
        const size_t at = 256 * b + 64 * c + v;
        products[t].add(multiply_pairs(even, load_q(x[t], at)), even_scale);
        products[t].add(multiply_pairs(odd, load_q(x[t], at + 32)), odd_scale);
      }
    }
  }
  const VSum d = broadcast_f16(block.d);
  const VSum m = hn::Neg(broadcast_f16(block.m));
  for (size_t t = 0; t < kRows; ++t) {
    const VSum scale = hn::Set(DSum(), x[t].scales[b]);
    add_scaled(products[t].lanes(), hn::Mul(d, scale), sums[t]);
    add_scaled(mins[t].lanes(), hn::Mul(m, scale), sums[t]);
  }
}

template <size_t kRows>
HWY_INLINE void add_to(const BlockQ4_K& block, size_t b, const ActivationRow* x, VSum* sums) {
  add_k_block<kRows>(block, b, x, sums);
}
template <size_t kRows>
HWY_INLINE void add_to(const BlockQ5_K& block, size_t b, const ActivationRow* x, VSum* sums) {
  add_k_block<kRows>(block, b, x, sums);
}

/// The scales of a Q6_K block, each in the lanes of the products of its 16 values.
class Q6Scales {
 public:
  HWY_INLINE explicit Q6Scales(const int8_t* scales) : scales_(scales) {
    if constexpr (kBytes == 32) {
      // The even ones in the lower half of the vector, the odd ones in the upper, as 16 bits.
      const VU8 both = hn::LoadDup128(DU8(), reinterpret_cast<const uint8_t*>(scales));
      HWY_ALIGN static constexpr uint8_t kSpread[32] = {
          0x80, 0, 0x80, 2, 0x80, 4, 0x80, 6, 0x80, 8, 0x80, 10, 0x80, 12, 0x80, 14,
          0x80, 1, 0x80, 3, 0x80, 5, 0x80, 7, 0x80, 9, 0x80, 11, 0x80, 13, 0x80, 15};
      const VU8 spread = hn::TableLookupBytesOr0(both, hn::Load(DU8(), kSpread));
      table_ = hn::ShiftRight<8>(hn::BitCast(DI16(), spread));
    }
  }
  /// For the vector of values from 32 * part + v.
  HWY_INLINE VI16 of(size_t part, size_t v) const {
    if constexpr (kBytes == 32) {
      const auto pick = static_cast<uint16_t>(2 * part | (2 * part + 1) << 8);
      return hn::TableLookupBytes(table_, hn::BitCast(DI16(), hn::Set(DU16(), pick)));
    } else {
      return hn::Set(DI16(), scales_[2 * part + v / 16]);
    }
  }

 private:
  const int8_t* scales_;
  VI16 table_ = hn::Zero(DI16());
};

template <size_t kRows>
HWY_INLINE void add_to(const BlockQ6_K& block, size_t b, const ActivationRow* x, VSum* sums) {
  const DU8 d8;
  const auto bits = [&](int mask) { return hn::Set(d8, static_cast<uint8_t>(mask)); };
  const Q6Scales scales(block.scales);
  IntegerSum products[kRows];
  for (size_t h = 0; h < 2; ++h) {
    for (size_t v = 0; v < 32; v += kBytes) {
      const VU8 low0 = hn::LoadU(d8, block.low + 64 * h + v);
      const VU8 low1 = hn::LoadU(d8, block.low + 64 * h + 32 + v);
      const VU8 high = hn::LoadU(d8, block.high + 32 * h + v);
      const VU8 q[4] = {
          hn::Or(hn::And(low0, bits(0x0f)), shift_up<4>(hn::And(high, bits(0x03)))),
          hn::Or(hn::And(low1, bits(0x0f)), shift_up<2>(hn::And(high, bits(0x0c)))),
          hn::Or(hn::ShiftRight<4>(low0), hn::And(high, bits(0x30))),
          hn::Or(hn::ShiftRight<4>(low1), hn::ShiftRight<2>(hn::And(high, bits(0xc0))))};
      for (size_t part = 0; part < 4; ++part) {
        const VI16 scale = scales.of(4 * h + part, v);
        for (size_t t = 0; t < kRows; ++t) {
          const size_t at = 256 * b + 128 * h + 32 * part + v;
          products[t].add(multiply_pairs(q[part], load_q(x[t], at)), scale);
        }
      }
    }
  }
  // The offset 32 of all weights.
  const VSum d = broadcast_f16(block.d);
  const hn::Rebind<int8_t, DI16> narrow;
  for (size_t t = 0; t < kRows; ++t) {
    IntegerSum offset;
    for (size_t i = 0; i < 16; i += kBytes / 2) {
      offset.add(hn::PromoteTo(DI16(), hn::LoadU(narrow, block.scales + i)),
                 hn::LoadU(DI16(), x[t].sums + 16 * b + i));
    }
    const VI32 sum = hn::Sub(products[t].lanes(), hn::ShiftLeft<5>(offset.lanes()));
    add_scaled(sum, hn::Mul(d, hn::Set(DSum(), x[t].scales[b])), sums[t]);
  }
}

/// sums[t] += block `b` of a row of weights times the same block of row t of x.
template <DType kType, size_t kRows>
HWY_INLINE void add_block(const std::byte* row, size_t b, const ActivationRow* x, VSum* sums) {
  add_to<kRows>(quant_block<kType>(row, static_cast<int64_t>(b)), b, x, sums);
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
