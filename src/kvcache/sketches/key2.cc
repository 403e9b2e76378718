// key2: every key of the page with 2 bits per channel. The score is an estimate of the page's
// attention mass, and no bound (algorithm.md, section 3; ours).
#include "kvcache/key2_sketch.hpp"

namespace freekv {

const Sketch& sketch_key2() {
  static const Key2Sketch sketch;
  return sketch;
}

}  // namespace freekv
