// cuboid: per channel the centre of the page's keys plus and minus their mean distance from it. A
// tighter box than minmax, so outliers weigh less; no bound (ArkVale, NeurIPS 2024, section 4).
#include "kvcache/box_sketch.hpp"

namespace freekv {

const Sketch& sketch_cuboid() {
  static const BoxSketch sketch("cuboid", BoxKind::kCuboid);
  return sketch;
}

}  // namespace freekv
