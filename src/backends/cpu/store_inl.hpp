// Writing vectors of f32 as rows of F32, F16 or BF16, rounded to nearest even as store_element()
// does. Included once per SIMD target, so the guard toggles.
#if defined(FREEKV_BACKENDS_CPU_STORE_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef FREEKV_BACKENDS_CPU_STORE_INL_HPP_
#undef FREEKV_BACKENDS_CPU_STORE_INL_HPP_
#else
#define FREEKV_BACKENDS_CPU_STORE_INL_HPP_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "backends/cpu/load_inl.hpp"
#include "core/dtype.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

/// row[e ...] = v, one vector of elements of kType.
template <DType kType, class D>
HWY_INLINE void store_values(D d, hn::Vec<D> v, std::byte* row, size_t e) {
  if constexpr (kType == DType::kF32) {
    hn::StoreU(v, d, reinterpret_cast<float*>(row) + e);
  } else if constexpr (kType == DType::kBF16) {
    // Highway's own conversion truncates.
    const hn::RebindToSigned<D> di32;
    const hn::RebindToUnsigned<D> du32;
    const hn::Rebind<uint16_t, D> du16;
    const auto bits = hn::BitCast(du32, v);
    const auto top = hn::ShiftRight<16>(bits);
    const auto odd = hn::And(top, hn::Set(du32, 1));
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du32, 0x7fff))));
    const auto quiet = hn::Or(top, hn::Set(du32, 0x40));
    const auto is_nan = hn::RebindMask(du32, hn::IsNaN(v));
    const auto result = hn::IfThenElse(is_nan, quiet, rounded);
    hn::StoreU(hn::DemoteTo(du16, hn::BitCast(di32, result)), du16,
               reinterpret_cast<uint16_t*>(row) + e);
  } else {
#if HWY_ARCH_X86 && HWY_TARGET > HWY_AVX2
    // Without F16C Highway's conversion truncates.
    HWY_ALIGN float lanes[hn::MaxLanes(d)];
    hn::Store(v, d, lanes);
    for (size_t i = 0; i < hn::Lanes(d); ++i) {
      store_element(kType, row, static_cast<int64_t>(e + i), lanes[i]);
    }
#else
    const hn::Rebind<hwy::float16_t, D> df16;
    hn::StoreU(hn::DemoteTo(df16, v), df16, reinterpret_cast<hwy::float16_t*>(row) + e);
#endif
  }
}

/// row[0, count) = values.
template <DType kType>
HWY_INLINE void store_floats(const float* values, size_t count, std::byte* row) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  size_t e = 0;
  for (; e + lanes <= count; e += lanes) store_values<kType>(d, hn::LoadU(d, values + e), row, e);
  for (; e < count; ++e) store_element(kType, row, static_cast<int64_t>(e), values[e]);
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
