// minmax: per channel the highest and the lowest key of the page. The score is an upper bound of
// q.k over the page's tokens (Quest, arXiv 2406.10774, section 3.2; FreeKV's choice).
#include "kvcache/box_sketch.hpp"

namespace freekv {

const Sketch& sketch_minmax() {
  static const BoxSketch sketch("minmax", BoxKind::kMinMax);
  return sketch;
}

}  // namespace freekv
