#include "kvcache/box_sketch.hpp"

namespace freekv {

BoxSketchView BoxSketch::view_of(const KvShape& shape, const std::byte* store) const {
  // The view is one type for reading and writing; scoring only reads.
  return {const_cast<std::byte*>(store), shape.dtype, shape.head_dim, kind_};
}

size_t BoxSketch::page_bytes(const KvShape& shape) const {
  return static_cast<size_t>(view_of(shape, nullptr).bounds()) * shape.token_bytes();
}

size_t BoxSketch::store_bytes(const KvShape& shape, int64_t pages) const {
  constexpr int64_t kBlock = BoxSketchView::kBlockPages;
  const auto blocks = static_cast<size_t>((pages + kBlock - 1) / kBlock);
  return blocks * view_of(shape, nullptr).block_bytes();
}

void BoxSketch::build(Backend& backend, const KvPool& pool, int32_t slot, int head, int64_t page,
                      std::span<std::byte> store) const {
  backend.build_box_sketch(pool, slot, head, view_of(pool.shape, store.data()), page);
}

void BoxSketch::score(Backend& backend, const KvShape& shape, const SketchQuery& query,
                      std::span<const std::byte> store, int64_t first,
                      View<float, 2> scores) const {
  backend.score_box_pages(query.q, view_of(shape, store.data()), first, scores);
}

}  // namespace freekv
