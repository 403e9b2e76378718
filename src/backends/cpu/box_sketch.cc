// Box sketches: building and scoring them.
#include "backends/cpu/selection.hpp"
#include "backends/selection_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/box_sketch.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/box_sketch_inl.hpp"

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(build_any);
HWY_EXPORT(score_any);

void build_box_sketch(const KvPool& pool, int32_t slot, int head, const BoxSketchView& sketch,
                      int64_t page) {
  check_sketch(pool, slot, head, sketch, page);
  check_argument(sketch.dtype == pool.shape.dtype, "the sketch is {}, the pool {}",
                 dtype_name(sketch.dtype), dtype_name(pool.shape.dtype));
  check_argument(sketch.head_dim % 8 == 0, "head_dim is {}, must be a multiple of 8",
                 sketch.head_dim);
  HWY_DYNAMIC_DISPATCH(build_any)(pool, slot, head, sketch, page);
}

void score_box_pages(View<const float, 2> q, const BoxSketchView& sketch, int64_t first,
                     View<float, 2> scores) {
  check_scores(q, sketch, first, scores);
  check_argument(sketch.head_dim <= kMaxHeadDim, "head_dim is {}, must be at most {}",
                 sketch.head_dim, kMaxHeadDim);
  HWY_DYNAMIC_DISPATCH(score_any)(q, sketch, first, scores);
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
