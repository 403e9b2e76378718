// mean: the page's mean key, a landmark (ShadowKV, arXiv 2410.21465, section 4.1). Half the bytes
// of a box; what is far from the mean does not show.
#include "kvcache/box_sketch.hpp"

namespace freekv {

const Sketch& sketch_mean() {
  static const BoxSketch sketch("mean", BoxKind::kMean);
  return sketch;
}

}  // namespace freekv
