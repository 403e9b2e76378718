// 2^x for vectors of f32: softmax and silu work in base two, with log2(e) folded into a scale they
// multiply by anyhow. Included once per SIMD target, so the guard toggles.
#if defined(FREEKV_BACKENDS_CPU_EXP2_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef FREEKV_BACKENDS_CPU_EXP2_INL_HPP_
#undef FREEKV_BACKENDS_CPU_EXP2_INL_HPP_
#else
#define FREEKV_BACKENDS_CPU_EXP2_INL_HPP_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr float kLog2E = 1.44269504f;

/// 2^x, relative error below 2e-7; exactly 1 at 0, exactly 0 below -126.5 (so also for -infinity),
/// and no more than about 2^127.5 above that.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp2(D d, V x) {
  const hn::RebindToSigned<D> di;
  x = hn::Min(hn::Max(x, hn::Set(d, -127.0f)), hn::Set(d, 127.0f));
  // Adding 1.5 * 2^23 rounds to the nearest integer, which is then in the lowest bits.
  const V shift = hn::Set(d, 0x1.8p23f);
  const V shifted = hn::Add(x, shift);
  const V f = hn::Sub(x, hn::Sub(shifted, shift));
  // Minimax for the relative error on [-1/2, 1/2] with the constant term fixed at 1: 9.1e-8.
  V p = hn::MulAdd(hn::Set(d, 0x1.5bba14p-10f), f, hn::Set(d, 0x1.3cea88p-7f));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.c6b752p-5f));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.ebf9bcp-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.62e42ap-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  // The exponent's bits of 2^whole; whole == -127 gives zero, which is what makes masked scores 0.
  const auto power = hn::ShiftLeft<23>(hn::Add(hn::BitCast(di, shifted), hn::Set(di, 127)));
  return hn::Mul(p, hn::BitCast(d, power));
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
