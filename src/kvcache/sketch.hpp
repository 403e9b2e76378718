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

/// One file each in sketches/. Stateless; all calls may run on several threads at once, for
/// different pages or heads. `store` is the memory of one (sequence, layer, KV head).
class Sketch {
 public:
  virtual ~Sketch() = default;
  virtual std::string_view name() const = 0;
  /// Bytes of the store of one head for `pages` pages.
  virtual size_t store_bytes(const KvShape& shape, int64_t pages) const = 0;
  /// Bytes that one page adds to it, for accounts of memory.
  virtual size_t page_bytes(const KvShape& shape) const = 0;
  /// Sketches the complete page of `head` in `slot` as logical page `page`.
  virtual void build(Backend& backend, const KvPool& pool, int32_t slot, int head, int64_t page,
                     std::byte* store) const = 0;
  /// scores [G, n] of pages first .. first + n for the queries q [G, d], without the 1/sqrt(d).
  virtual void score(Backend& backend, const KvShape& shape, View<const float, 2> q,
                     const std::byte* store, int64_t first, View<float, 2> scores) const = 0;
};

/// The sketch called `name`; throws Error(kInvalidArgument) that lists the known names.
const Sketch& find_sketch(std::string_view name);
/// All sketches, in order of name: generated from sketches/*.cc, each of which defines
/// `const Sketch& sketch_<file name>()`.
std::span<const Sketch* const> sketch_table();
/// "cuboid, landmark, minmax": for messages and help texts.
std::string sketch_names();

/// The sketches of one (sequence, layer): a store per head, in one allocation.
class SketchStore {
 public:
  SketchStore() = default;
  SketchStore(const Sketch& sketch, const KvShape& shape, int64_t max_pages);

  bool empty() const { return sketch_ == nullptr; }
  const Sketch& sketch() const { return *sketch_; }
  void build(Backend& backend, const KvPool& pool, int32_t slot, int head, int64_t page);
  void score(Backend& backend, int head, View<const float, 2> q, int64_t first,
             View<float, 2> scores) const;
  /// What `pages` pages of all heads take.
  size_t used_bytes(int64_t pages) const;

 private:
  const Sketch* sketch_ = nullptr;
  KvShape shape_;
  int64_t max_pages_ = 0;
  size_t head_bytes_ = 0;
  Buffer memory_;
};

}  // namespace freekv
