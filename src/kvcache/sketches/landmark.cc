// landmark: the mean key of every 8 tokens; a page scores what the best of its means does
// (ShadowKV, arXiv 2410.21465, section 4.1, whose chunks of 8 tokens are pages here that score by
// chunk).
#include <algorithm>
#include <array>

#include "core/check.hpp"
#include "core/dot.hpp"
#include "kvcache/sketch.hpp"

namespace freekv {
namespace {

constexpr int kChunk = 8;

// A store is [page][chunk][d] in the KV type; the last chunk of a page may be shorter.
class LandmarkSketch final : public Sketch {
 public:
  std::string_view name() const override { return "landmark"; }
  size_t store_bytes(const KvShape& shape, int64_t pages) const override {
    return page_bytes(shape) * static_cast<size_t>(pages);
  }
  size_t page_bytes(const KvShape& shape) const override {
    return static_cast<size_t>(chunks(shape)) * shape.token_bytes();
  }

  void build(Backend&, const KvPool& pool, int32_t slot, int head, int64_t page,
             std::span<std::byte> store) const override {
    const KvShape& shape = pool.shape;
    const std::byte* keys = pool.keys(slot, head);
    std::byte* out = store.data() + page_bytes(shape) * static_cast<size_t>(page);
    for (int first = 0; first < shape.page; first += kChunk, out += shape.token_bytes()) {
      const int count = std::min(kChunk, shape.page - first);
      for (int e = 0; e < shape.head_dim; ++e) {
        float sum = 0;
        for (int t = first; t < first + count; ++t) {
          sum += load_element(shape.dtype, keys + static_cast<size_t>(t) * pool.token_stride(), e);
        }
        store_element(shape.dtype, out, e, sum / static_cast<float>(count));
      }
    }
  }

  void score(Backend&, const KvShape& shape, const SketchQuery& query,
             std::span<const std::byte> store, int64_t first,
             View<float, 2> scores) const override {
    const View<const float, 2>& q = query.q;
    std::array<float, 1024> mean;
    check_internal(shape.head_dim <= static_cast<int>(mean.size()),
                   "head dimension is {}, must be at most {}", shape.head_dim, mean.size());
    const std::byte* chunk = store.data() + page_bytes(shape) * static_cast<size_t>(first);
    for (int64_t j = 0; j < scores.shape(1); ++j) {
      for (int c = 0; c < chunks(shape); ++c, chunk += shape.token_bytes()) {
        load_row(shape.dtype, chunk, std::span(mean).first(static_cast<size_t>(shape.head_dim)));
        for (int64_t g = 0; g < q.shape(0); ++g) {
          const float product = dot(q[g].data(), mean.data(), shape.head_dim);
          scores[g][j] = c == 0 ? product : std::max(scores[g][j], product);
        }
      }
    }
  }

 private:
  static int chunks(const KvShape& shape) { return (shape.page + kChunk - 1) / kChunk; }
};

}  // namespace

const Sketch& sketch_landmark() {
  static const LandmarkSketch sketch;
  return sketch;
}

}  // namespace freekv
