#include "kvcache/box_sketch.hpp"

namespace freekv {
namespace {

BoxSketchView view_of(const KvShape& shape, std::byte* store) {
  return {store, shape.dtype, shape.head_dim};
}

}  // namespace

size_t BoxSketch::store_bytes(const KvShape& shape, int64_t pages) const {
  constexpr int64_t kBlock = BoxSketchView::kBlockPages;
  const auto blocks = static_cast<size_t>((pages + kBlock - 1) / kBlock);
  return blocks * view_of(shape, nullptr).block_bytes();
}

void BoxSketch::build(Backend& backend, const KvPool& pool, int32_t slot, int head, int64_t page,
                      std::byte* store) const {
  backend.build_box_sketch(kind_, pool, slot, head, view_of(pool.shape, store), page);
}

void BoxSketch::score(Backend& backend, const KvShape& shape, View<const float, 2> q,
                      const std::byte* store, int64_t first, View<float, 2> scores) const {
  // The view is one type for reading and writing; scoring only reads.
  backend.score_box_pages(q, view_of(shape, const_cast<std::byte*>(store)), first, scores);
}

}  // namespace freekv
