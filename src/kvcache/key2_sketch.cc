#include "kvcache/key2_sketch.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace freekv {
namespace {

Key2SketchView view_of(const KvShape& shape, const std::byte* store) {
  // The view is one type for reading and writing; scoring only reads.
  return {const_cast<std::byte*>(store), shape.dtype, shape.head_dim, shape.page};
}

}  // namespace

size_t Key2Sketch::store_bytes(const KvShape& shape, int64_t pages) const {
  return static_cast<size_t>(pages) * page_bytes(shape);
}

size_t Key2Sketch::page_bytes(const KvShape& shape) const {
  return view_of(shape, nullptr).page_bytes();
}

void Key2Sketch::build(Backend& backend, const KvPool& pool, int32_t slot, int head, int64_t page,
                       std::span<std::byte> store) const {
  backend.build_key2_sketch(pool, slot, head, view_of(pool.shape, store.data()), page);
}

void Key2Sketch::score(Backend& backend, const KvShape& shape, const SketchQuery& query,
                       std::span<const std::byte> store, int64_t first,
                       View<float, 2> scores) const {
  // By the block: the pages are listed, and a block's scores do not lie together in [G, n].
  std::array<int32_t, 256> pages;
  std::array<float, 4096> block;
  const int64_t group = scores.shape(0), n = scores.shape(1);
  const int64_t most = std::min<int64_t>(std::size(pages), std::size(block) / group);
  for (int64_t done = 0; done < n; done += most) {
    const int64_t count = std::min(most, n - done);
    std::iota(pages.begin(), pages.begin() + count, static_cast<int32_t>(first + done));
    const View<float, 2> part(block.data(), group, count);
    score_listed(backend, shape, query, store, std::span(pages).first(static_cast<size_t>(count)),
                 part);
    for (int64_t g = 0; g < group; ++g) {
      std::copy_n(part[g].data(), count, scores[g].data() + done);
    }
  }
}

void Key2Sketch::score_listed(Backend& backend, const KvShape& shape, const SketchQuery& query,
                              std::span<const std::byte> store, std::span<const int32_t> pages,
                              View<float, 2> scores) const {
  backend.score_key2_pages(query.q, view_of(shape, store.data()), query.scale, pages, scores);
}

}  // namespace freekv
