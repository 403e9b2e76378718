// Reading rows of any dtype as vectors of f32. Included once per SIMD target (Highway's pattern),
// so the guard toggles.
#if defined(FREEKV_BACKENDS_CPU_LOAD_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef FREEKV_BACKENDS_CPU_LOAD_INL_HPP_
#undef FREEKV_BACKENDS_CPU_LOAD_INL_HPP_
#else
#define FREEKV_BACKENDS_CPU_LOAD_INL_HPP_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backends/cpu/dispatch_dtype.hpp"
#include "core/dtype.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Values are read in blocks of 32 in every dtype, as quantised blocks are; vectors are at most
/// that.
inline constexpr size_t kBlock = kPiece;
using DF = hn::CappedTag<float, kBlock>;
using VF = hn::Vec<DF>;

/// F32, F16, BF16 and Q8_0; dequantize.hpp has the other types.
/// Block<kType>(row, b).load(d, j): values 32 b + j, ... of a row as f32. Rows may lie at any
/// address, as they do in a mapped file.
template <DType kType>
class Block {
 public:
  static constexpr size_t kBytes = kBlock * (kType == DType::kF32 ? 4 : 2);

  HWY_INLINE Block(const std::byte* row, size_t b) : data_(row + b * kBytes) {}

  template <class D>
  HWY_INLINE hn::Vec<D> load(D d, size_t j) const {
    if constexpr (kType == DType::kF32) {
      return hn::LoadU(d, reinterpret_cast<const float*>(data_) + j);
    } else {
      const hn::Rebind<T, D> narrow;
      return hn::PromoteTo(d, hn::LoadU(narrow, reinterpret_cast<const T*>(data_) + j));
    }
  }

 private:
  using T =
      std::conditional_t<kType == DType::kF32, float,
                         std::conditional_t<kType == DType::kF16, hwy::float16_t, hwy::bfloat16_t>>;
  const std::byte* data_;
};

template <>
class Block<DType::kQ8_0> {
 public:
  static constexpr size_t kBytes = sizeof(BlockQ8_0);

  HWY_INLINE Block(const std::byte* row, size_t b) : data_(row + b * kBytes) {}

  template <class D>
  HWY_INLINE hn::Vec<D> load(D d, size_t j) const {
    // A vector conversion of the broadcast scale: the scalar one is a chain of branches.
    const hn::Rebind<hwy::float16_t, D> df16;
    const hn::Rebind<uint16_t, D> du16;
    uint16_t bits = 0;
    std::memcpy(&bits, data_, sizeof(bits));
    const auto scale = hn::PromoteTo(d, hn::BitCast(df16, hn::Set(du16, bits)));
    const hn::Rebind<int8_t, D> di8;
    const hn::RebindToSigned<D> di32;
    const auto q = hn::LoadU(di8, reinterpret_cast<const int8_t*>(data_ + 2) + j);
    return hn::Mul(scale, hn::ConvertTo(d, hn::PromoteTo(di32, q)));
  }

 private:
  const std::byte* data_;
};

/// out[0, count) = values of `row` from `first`, which is a multiple of 32.
template <DType kType>
HWY_INLINE void load_floats(const std::byte* row, size_t first, size_t count, float* out) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  size_t done = 0;
  for (; done + kBlock <= count; done += kBlock) {
    const Block<kType> block(row, (first + done) / kBlock);
    for (size_t j = 0; j < kBlock; j += lanes) hn::StoreU(block.load(d, j), d, out + done + j);
  }
  for (; done < count; ++done) {
    out[done] = load_element(kType, row, static_cast<int64_t>(first + done));
  }
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
