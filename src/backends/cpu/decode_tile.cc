#include "backends/cpu/decode_tile.hpp"

#include <array>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/decode_tile.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/decode_tile_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

template <DType kType, size_t... kIndex>
constexpr TileKernels make_kernels(std::index_sequence<kIndex...>) {
  return {kLanes, kMaxBlockHeads, {nullptr, &attend_tile<kType, kIndex + 1>...}};
}

template <DType kType>
inline constexpr TileKernels kKernels =
    make_kernels<kType>(std::make_index_sequence<kMaxBlockHeads>());

const TileKernels* kernels_of(DType dtype) {
  return dispatch_kv_dtype(dtype, [](auto type) { return &kKernels<decltype(type)::value>; });
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(kernels_of);

const TileKernels& tile_kernels(DType dtype) { return *HWY_DYNAMIC_DISPATCH(kernels_of)(dtype); }

}  // namespace freekv::cpu
#endif  // HWY_ONCE
