#include "backends/cpu/linear_prefill.hpp"

#include <algorithm>

#include "backends/cpu/dequantize.hpp"
#include "backends/projection_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/linear_prefill.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/gemm_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

size_t linear_panel_cols() { return panel_cols(); }

// Packs panel `panel` of the weights: rows [panel * cols, ...) become columns.
void pack_weights(const WeightView& weight, int64_t panel, float* dst) {
  const auto cols = static_cast<int64_t>(panel_cols());
  const int64_t first = panel * cols;
  const auto count = static_cast<size_t>(std::min(cols, weight.rows - first));
  const auto load = [&](size_t r, size_t k, size_t n, float* out) {
    dequantize(weight, first + static_cast<int64_t>(r), static_cast<int64_t>(k), {out, n});
  };
  pack_panel(count, static_cast<size_t>(weight.cols), load, dst);
}

// out[begin..end, panel's columns] (+)= x W^T. Sums are kept aside, since rows of the output may
// lie a power of two apart and so evict each other from the caches; the panel is used a stretch of
// k at a time that stays in the first-level cache while a block of rows passes over it.
void multiply_panel(View<const float, 2> x, int64_t begin, int64_t end, const float* packed,
                    int64_t panel, bool accumulate, View<float, 2> out) {
  constexpr size_t kStretch = 128;
  constexpr size_t kRows = 8 * kTileRows;
  HWY_ALIGN float sums[kRows * kTileVectors * hn::MaxLanes(DF())];
  const size_t cols = panel_cols();
  const auto k = static_cast<size_t>(x.shape(1));
  const auto n = static_cast<size_t>(out.shape(1));
  const size_t first = static_cast<size_t>(panel) * cols;
  const size_t valid = std::min(cols, n - first);
  for (auto t = static_cast<size_t>(begin); t < static_cast<size_t>(end); t += kRows) {
    const size_t rows = std::min(kRows, static_cast<size_t>(end) - t);
    float* to = out.data() + t * n + first;
    if (accumulate || k == 0) {
      std::fill_n(sums, rows * cols, 0.0f);
      for (size_t r = 0; accumulate && r < rows; ++r) {
        std::copy_n(to + r * n, valid, sums + r * cols);
      }
    }
    for (size_t i = 0; i < k; i += kStretch) {
      gemm_strip<kTileVectors>(rows, x.data() + t * k + i, k, packed + i * cols, cols,
                               std::min(kStretch, k - i), accumulate || i > 0, sums, cols);
    }
    for (size_t r = 0; r < rows; ++r) std::copy_n(sums + r * cols, valid, to + r * n);
  }
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(linear_panel_cols);
HWY_EXPORT(pack_weights);
HWY_EXPORT(multiply_panel);

namespace {

// Packed weights are held this many bytes at a time: well inside the caches that cores share.
constexpr size_t kPackedBytes = size_t{4} << 20;
// Rows of x that one panel is multiplied with before the next: they stay in the second-level cache.
constexpr int64_t kRowBlock = 96;

}  // namespace

void LinearPrefillScratch::reserve(ExecutionContext&, const BackendLimits& limits) {
  const size_t panel = HWY_DYNAMIC_DISPATCH(linear_panel_cols)() *
                       static_cast<size_t>(limits.max_cols) * sizeof(float);
  panels = Buffer(std::max(panel, kPackedBytes));
}

void linear_prefill(ExecutionContext& ctx, LinearPrefillScratch& scratch, View<const float, 2> x,
                    const WeightView& weight, bool accumulate, View<float, 2> out) {
  check_linear(x, weight, out);
  const auto cols = static_cast<int64_t>(HWY_DYNAMIC_DISPATCH(linear_panel_cols)());
  const int64_t panel_floats = cols * weight.cols;
  const std::span<float> packed = scratch.panels.as<float>();
  const int64_t at_once =
      panel_floats == 0 ? 1 : static_cast<int64_t>(packed.size()) / panel_floats;
  check_internal(at_once >= 1, "a panel of {} floats does not fit the {} reserved", panel_floats,
                 packed.size());
  const int64_t rows = x.shape(0);
  const int64_t row_blocks = (rows + kRowBlock - 1) / kRowBlock;
  const int64_t panels = (weight.rows + cols - 1) / cols;
  for (int64_t first = 0; first < panels; first += at_once) {
    const int64_t count = std::min(at_once, panels - first);
    ctx.pool().parallel_for(count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t p = begin; p < end; ++p) {
        HWY_DYNAMIC_DISPATCH(pack_weights)(weight, first + p, packed.data() + p * panel_floats);
      }
    });
    ctx.pool().parallel_for(row_blocks * count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t = i / count * kRowBlock;
        const int64_t p = i % count;
        HWY_DYNAMIC_DISPATCH(multiply_panel)
        (x, t, std::min(rows, t + kRowBlock), packed.data() + p * panel_floats, first + p,
         accumulate, out);
      }
    });
  }
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
