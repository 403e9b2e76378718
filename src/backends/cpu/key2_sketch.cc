// Sketches of 2-bit keys: building and scoring them.
#include "backends/cpu/selection.hpp"
#include "backends/selection_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/key2_sketch.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/key2_build_inl.hpp"
#include "backends/cpu/key2_score_inl.hpp"

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(build_key2_any);
HWY_EXPORT(score_key2_any);

void build_key2_sketch(const KvPool& pool, int32_t slot, int head, const Key2SketchView& sketch,
                       int64_t page) {
  check_key2(pool, slot, head, sketch, page);
  check_argument(sketch.dtype == pool.shape.dtype, "the sketch is {}, the pool {}",
                 dtype_name(sketch.dtype), dtype_name(pool.shape.dtype));
  check_argument(sketch.head_dim % 8 == 0, "head_dim is {}, must be a multiple of 8",
                 sketch.head_dim);
  HWY_DYNAMIC_DISPATCH(build_key2_any)(pool, slot, head, sketch, page);
}

void score_key2_pages(View<const float, 2> q, const Key2SketchView& sketch, float scale,
                      std::span<const int32_t> pages, View<float, 2> scores) {
  check_key2_scores(q, sketch, pages, scores);
  check_argument(sketch.head_dim % 8 == 0 && sketch.head_dim <= kMaxHeadDim,
                 "head_dim is {}, must be a multiple of 8 and at most {}", sketch.head_dim,
                 kMaxHeadDim);
  check_argument(sketch.page <= kMaxPage, "page is {} tokens, must be at most {}", sketch.page,
                 kMaxPage);
  HWY_DYNAMIC_DISPATCH(score_key2_any)(q, sketch, scale, pages, scores);
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
