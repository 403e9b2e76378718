// A page sketch: what stays in fast memory about a page, and how a query scores it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/backend.hpp"
#include "device/buffer.hpp"

namespace freekv {

/// The queries of one KV head, and what its attention multiplies q.k by: 1/sqrt(d).
struct SketchQuery {
  View<const float, 2> q;  // [G, d]
  float scale = 1;
};

/// What a page's score stands for, and so what a softmax over pages takes of it. Poolings without a
/// softmax take either as it is: the mean or the largest of the group.
enum class ScoreKind : uint8_t {
  kProduct,  // q.k of the page's tokens, bounded or averaged: the softmax is of scale * score
  kLogMass,  // ln sum exp(scale * q.k) over them, estimated: the softmax is of the score, and gives
             // the page's share of the attention mass
};

/// One file each in sketches/. Stateless; all calls may run on several threads at once, for
/// different pages or heads. `store` is the memory of one (sequence, layer, KV head), of the size
/// that store_bytes() says.
class Sketch {
 public:
  virtual ~Sketch() = default;
  virtual std::string_view name() const = 0;
  virtual ScoreKind score_kind() const { return ScoreKind::kProduct; }
  /// Bytes of the store of one head for `pages` pages.
  virtual size_t store_bytes(const KvShape& shape, int64_t pages) const = 0;
  /// Bytes that one page adds to it, for accounts of memory.
  virtual size_t page_bytes(const KvShape& shape) const = 0;
  /// Sketches the complete page of `head` in `slot` as logical page `page`.
  virtual void build(Backend& backend, const KvPool& pool, int32_t slot, int head, int64_t page,
                     std::span<std::byte> store) const = 0;
  /// scores [G, n] of pages first .. first + n.
  virtual void score(Backend& backend, const KvShape& shape, const SketchQuery& query,
                     std::span<const std::byte> store, int64_t first,
                     View<float, 2> scores) const = 0;

  /// Whether it also holds what pages are worth that are not attended to: their mean values.
  virtual bool has_values() const { return false; }
  /// out[g] += sum_i weights[g, i] * mean value of page first + i; weights [G, n], out [G, d].
  virtual void add_values(Backend& backend, const KvShape& shape, std::span<const std::byte> store,
                          View<const float, 2> weights, int64_t first, View<float, 2> out) const;

  /// Below 1: a sketch of two stages. score() is of kind kProduct then and leaves this share of the
  /// candidates, of which score_listed() says the scores that count, of kind score_kind().
  virtual double listed_share() const { return 1; }
  /// scores [G, pages] of these pages; for sketches of two stages.
  virtual void score_listed(Backend& backend, const KvShape& shape, const SketchQuery& query,
                            std::span<const std::byte> store, std::span<const int32_t> pages,
                            View<float, 2> scores) const;
};

/// The sketch called `name`; throws Error(kInvalidArgument) that lists the known names.
const Sketch& find_sketch(std::string_view name);
/// All sketches, in order of name: generated from sketches/*.cc, each of which defines
/// `const Sketch& sketch_<file name>()`.
std::span<const Sketch* const> sketch_table();
/// "cuboid, key2, ...": for messages and help texts.
std::string sketch_names();
/// Of those whose scores are attention mass.
std::string mass_sketch_names();

/// The sketches of one (sequence, layer): a store per head, in one allocation.
class SketchStore {
 public:
  SketchStore() = default;
  SketchStore(const Sketch& sketch, const KvShape& shape, int64_t max_pages);

  bool empty() const { return sketch_ == nullptr; }
  const Sketch& sketch() const { return *sketch_; }
  void build(Backend& backend, const KvPool& pool, int32_t slot, int head, int64_t page);
  void score(Backend& backend, int head, const SketchQuery& query, int64_t first,
             View<float, 2> scores) const;
  void score_listed(Backend& backend, int head, const SketchQuery& query,
                    std::span<const int32_t> pages, View<float, 2> scores) const;
  void add_values(Backend& backend, int head, View<const float, 2> weights, int64_t first,
                  View<float, 2> out) const;
  /// What `pages` pages of all heads take.
  size_t used_bytes(int64_t pages) const;

 private:
  std::span<const std::byte> head_store(int head) const {
    return {memory_.data() + head_bytes_ * static_cast<size_t>(head), head_bytes_};
  }

  const Sketch* sketch_ = nullptr;
  KvShape shape_;
  int64_t max_pages_ = 0;
  size_t head_bytes_ = 0;
  Buffer memory_;
};

}  // namespace freekv
