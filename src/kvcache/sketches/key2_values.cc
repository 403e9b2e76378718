// key2+values: key2 and the mean value of the page, so that pages that are not attended to can
// count with their estimated mass and what they hold on average, as clusters of keys do in the
// estimation zone of RetroInfer (arXiv 2505.02922). 2 d bytes a page more than key2. Only
// freekv-coverage uses the values.
#include "kvcache/key2_sketch.hpp"

namespace freekv {
namespace {

class Key2ValuesSketch final : public Sketch {
 public:
  std::string_view name() const override { return "key2+values"; }
  ScoreKind score_kind() const override { return ScoreKind::kLogMass; }
  bool has_values() const override { return true; }

  size_t store_bytes(const KvShape& shape, int64_t pages) const override {
    return keys_.store_bytes(shape, pages) + static_cast<size_t>(pages) * shape.token_bytes();
  }
  size_t page_bytes(const KvShape& shape) const override {
    return keys_.page_bytes(shape) + shape.token_bytes();
  }

  void build(Backend& backend, const KvPool& pool, int32_t slot, int head, int64_t page,
             std::span<std::byte> store) const override {
    const size_t keys = key_bytes(pool.shape, store.size());
    keys_.build(backend, pool, slot, head, page, store.first(keys));
    backend.build_mean_values(pool, slot, head, means_of(pool.shape, store.data() + keys), page);
  }
  void score(Backend& backend, const KvShape& shape, const SketchQuery& query,
             std::span<const std::byte> store, int64_t first,
             View<float, 2> scores) const override {
    keys_.score(backend, shape, query, store.first(key_bytes(shape, store.size())), first, scores);
  }
  void add_values(Backend& backend, const KvShape& shape, std::span<const std::byte> store,
                  View<const float, 2> weights, int64_t first, View<float, 2> out) const override {
    const std::byte* means = store.data() + key_bytes(shape, store.size());
    backend.add_mean_values(weights, means_of(shape, means), first, out);
  }

 private:
  // Keys come first; both parts have a fixed size per page.
  size_t key_bytes(const KvShape& shape, size_t bytes) const {
    return bytes / page_bytes(shape) * keys_.page_bytes(shape);
  }
  static MeanValuesView means_of(const KvShape& shape, const std::byte* data) {
    // The view is one type for reading and writing; adding only reads.
    return {const_cast<std::byte*>(data), shape.dtype, shape.head_dim};
  }

  Key2Sketch keys_;
};

}  // namespace

const Sketch& sketch_key2_values() {
  static const Key2ValuesSketch sketch;
  return sketch;
}

}  // namespace freekv
