// Building sketches of 2-bit keys. Included once per SIMD target, so the guard toggles.
#if defined(FREEKV_BACKENDS_CPU_KEY2_BUILD_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef FREEKV_BACKENDS_CPU_KEY2_BUILD_INL_HPP_
#undef FREEKV_BACKENDS_CPU_KEY2_BUILD_INL_HPP_
#else
#define FREEKV_BACKENDS_CPU_KEY2_BUILD_INL_HPP_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "backends/backend.hpp"
#include "backends/cpu/load_inl.hpp"
#include "backends/cpu/store_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

// The four channels whose levels share the bytes of a token, or one on machines without vectors.
using DQuad = hn::CappedTag<float, 4>;
using VQuad = hn::Vec<DQuad>;

/// (key - lo) / step rounded down to 0..3, as an integer; 0 where step is 0.
HWY_INLINE hn::Vec<hn::RebindToSigned<DQuad>> levels_of(VQuad key, VQuad lo, VQuad step) {
  const DQuad d;
  const VQuad zero = hn::Zero(d);
  // A quotient and not a product with 1 / step: every backend must round alike.
  const VQuad x = hn::IfThenElseZero(hn::Gt(step, zero), hn::Div(hn::Sub(key, lo), step));
  const auto level =
      hn::ConvertTo(hn::RebindToSigned<DQuad>(), hn::Min(hn::Max(x, zero), hn::Set(d, 3.0f)));
  return hn::And(level, hn::Set(hn::RebindToSigned<DQuad>(), 3));
}

/// lo and step of four channels.
template <DType kType>
HWY_INLINE void measure_channels(const std::byte* keys, size_t stride, int tokens, size_t e,
                                 std::byte* lo_row, std::byte* step_row) {
  const DQuad d;
  VQuad hi = Block<kType>(keys, 0).load(d, e);
  VQuad lo = hi;
  for (int t = 1; t < tokens; ++t) {
    const VQuad key = Block<kType>(keys + static_cast<size_t>(t) * stride, 0).load(d, e);
    hi = hn::Max(hi, key);
    lo = hn::Min(lo, key);
  }
  const VQuad quarter = hn::Set(d, 0.25f);
  store_values<kType>(d, lo, lo_row, e);
  store_values<kType>(d, hn::Sub(hn::Mul(quarter, hi), hn::Mul(quarter, lo)), step_row, e);
}

template <DType kType>
void build_key2(const KvPool& pool, int32_t slot, int head, const Key2SketchView& sketch,
                int64_t page) {
  constexpr size_t kGroup = Key2SketchView::kGroup;
  const DQuad d;
  const size_t lanes = hn::Lanes(d);
  const hn::Rebind<uint8_t, DQuad> du8;
  const auto dim = static_cast<size_t>(sketch.head_dim);
  const size_t stride = pool.token_stride();
  const std::byte* keys = pool.keys(slot, head);
  std::byte* lo_row = sketch.lo(page);
  std::byte* step_row = sketch.step(page);
  for (size_t e = 0; e < dim; e += lanes) {
    measure_channels<kType>(keys, stride, sketch.page, e, lo_row, step_row);
  }
  std::fill(sketch.levels(page, 0, 0), sketch.lo(page + 1), std::byte{0});
  for (size_t first = 0; first < dim; first += kGroup) {
    // The last group may be half a one.
    const size_t quads = std::min(kGroup, dim - first) / 4;
    for (int t = 0; t < sketch.page; ++t) {
      const std::byte* key = keys + static_cast<size_t>(t) * stride;
      std::byte* bytes = sketch.levels(page, static_cast<int>(first / kGroup), t);
      for (size_t c = 0; c < 4; c += lanes) {
        auto packed = hn::Zero(hn::RebindToSigned<DQuad>());
        for (size_t i = quads; i-- > 0;) {
          const size_t e = first + 4 * i + c;
          const auto level =
              levels_of(Block<kType>(key, 0).load(d, e), Block<kType>(lo_row, 0).load(d, e),
                        Block<kType>(step_row, 0).load(d, e));
          packed = hn::Or(hn::ShiftLeft<2>(packed), level);
        }
        hn::StoreU(hn::DemoteTo(du8, packed), du8, reinterpret_cast<uint8_t*>(bytes) + c);
      }
    }
  }
}

void build_key2_any(const KvPool& pool, int32_t slot, int head, const Key2SketchView& sketch,
                    int64_t page) {
  dispatch_kv_dtype(sketch.dtype, [&](auto type) {
    build_key2<decltype(type)::value>(pool, slot, head, sketch, page);
  });
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
