// minmax+key2: minmax chooses a fifth of the candidates, key2 ranks those. Bytes of both, but a
// long context's 2-bit keys are read for the chosen pages alone. The others count as nothing where
// attention mass is estimated, so that what is chosen seems to weigh more than it does
// (algorithm.md, section 2; ours).
#include "kvcache/box_sketch.hpp"
#include "kvcache/key2_sketch.hpp"

namespace freekv {
namespace {

class MinMaxKey2Sketch final : public Sketch {
 public:
  std::string_view name() const override { return "minmax+key2"; }
  ScoreKind score_kind() const override { return ScoreKind::kLogMass; }
  // A fifth cost nothing on long lists, a tenth began to (measured.md, section 4).
  double listed_share() const override { return 0.2; }

  size_t store_bytes(const KvShape& shape, int64_t pages) const override {
    return box_.store_bytes(shape, pages) + keys_.store_bytes(shape, pages);
  }
  size_t page_bytes(const KvShape& shape) const override {
    return box_.page_bytes(shape) + keys_.page_bytes(shape);
  }

  void build(Backend& backend, const KvPool& pool, int32_t slot, int head, int64_t page,
             std::span<std::byte> store) const override {
    const size_t boxes = box_bytes(pool.shape, store.size());
    box_.build(backend, pool, slot, head, page, store.first(boxes));
    keys_.build(backend, pool, slot, head, page, store.subspan(boxes));
  }
  void score(Backend& backend, const KvShape& shape, const SketchQuery& query,
             std::span<const std::byte> store, int64_t first,
             View<float, 2> scores) const override {
    box_.score(backend, shape, query, store.first(box_bytes(shape, store.size())), first, scores);
  }
  void score_listed(Backend& backend, const KvShape& shape, const SketchQuery& query,
                    std::span<const std::byte> store, std::span<const int32_t> pages,
                    View<float, 2> scores) const override {
    keys_.score_listed(backend, shape, query, store.subspan(box_bytes(shape, store.size())), pages,
                       scores);
  }

 private:
  // Boxes come first, in whole blocks of pages; of the whole store their size follows.
  size_t box_bytes(const KvShape& shape, size_t bytes) const {
    constexpr int64_t kBlock = BoxSketchView::kBlockPages;
    const size_t block = box_.store_bytes(shape, kBlock);
    const size_t keys = keys_.page_bytes(shape);
    // The last block may have any number of pages from 1 on.
    const size_t blocks = (bytes + (kBlock - 1) * keys) / (block + kBlock * keys);
    return blocks * block;
  }

  BoxSketch box_{"minmax", BoxKind::kMinMax};
  Key2Sketch keys_;
};

}  // namespace

const Sketch& sketch_minmax_key2() {
  static const MinMaxKey2Sketch sketch;
  return sketch;
}

}  // namespace freekv
