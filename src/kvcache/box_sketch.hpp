// What box sketches share: one or two values per channel, as the backend stores them.
#pragma once

#include <string_view>

#include "kvcache/sketch.hpp"

namespace freekv {

class BoxSketch final : public Sketch {
 public:
  BoxSketch(std::string_view name, BoxKind kind) : name_(name), kind_(kind) {}

  std::string_view name() const override { return name_; }
  size_t store_bytes(const KvShape& shape, int64_t pages) const override;
  size_t page_bytes(const KvShape& shape) const override;
  void build(Backend& backend, const KvPool& pool, int32_t slot, int head, int64_t page,
             std::span<std::byte> store) const override;
  void score(Backend& backend, const KvShape& shape, const SketchQuery& query,
             std::span<const std::byte> store, int64_t first, View<float, 2> scores) const override;

 private:
  BoxSketchView view_of(const KvShape& shape, const std::byte* store) const;

  std::string_view name_;
  BoxKind kind_;
};

}  // namespace freekv
