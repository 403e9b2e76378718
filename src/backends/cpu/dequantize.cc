#include "backends/cpu/dequantize.hpp"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/dequantize.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/load_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

// The loops over bytes of unpack_piece() become vectors here, the conversion is written as one.
template <DType kType>
HWY_INLINE void dequantize_pieces(const std::byte* row, size_t first, std::span<float> out) {
  const DF d;
  const hn::Rebind<int8_t, DF> di8;
  const hn::Rebind<int32_t, DF> di32;
  const size_t lanes = hn::Lanes(d);
  HWY_ALIGN float tail[kBlock];
  for (size_t done = 0; done < out.size(); done += kBlock) {
    QuantPiece piece;
    unpack_piece<kType>(row, static_cast<int64_t>((first + done) / kBlock), piece);
    const bool whole = done + kBlock <= out.size();
    float* to = whole ? out.data() + done : tail;
    const VF min = hn::Set(d, piece.min);
    for (size_t j = 0; j < kBlock; j += lanes) {
      const VF q = hn::ConvertTo(d, hn::PromoteTo(di32, hn::LoadU(di8, piece.q + j)));
      hn::StoreU(hn::Sub(hn::Mul(q, hn::Set(d, piece.scale[j / 16])), min), d, to + j);
    }
    if (!whole) std::copy_n(tail, out.size() - done, out.data() + done);
  }
}

void dequantize_row(DType dtype, const std::byte* row, size_t first, std::span<float> out) {
  if (is_read_in_vectors(dtype)) {
    dispatch_block_dtype(
        dtype, [&](auto type) { load_floats<type()>(row, first, out.size(), out.data()); });
  } else {
    dispatch_quantized(dtype, [&](auto type) { dequantize_pieces<type()>(row, first, out); });
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
