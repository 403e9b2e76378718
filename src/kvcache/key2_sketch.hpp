// Keys of 2 bits: a lowest value and a step per channel, and a level for every token.
#pragma once

#include "kvcache/sketch.hpp"

namespace freekv {

class Key2Sketch final : public Sketch {
 public:
  std::string_view name() const override { return "key2"; }
  size_t store_bytes(const KvShape& shape, int64_t pages) const override;
  size_t page_bytes(const KvShape& shape) const override;
  ScoreKind score_kind() const override { return ScoreKind::kLogMass; }
  void build(Backend& backend, const KvPool& pool, int32_t slot, int head, int64_t page,
             std::span<std::byte> store) const override;
  void score(Backend& backend, const KvShape& shape, const SketchQuery& query,
             std::span<const std::byte> store, int64_t first, View<float, 2> scores) const override;
  void score_listed(Backend& backend, const KvShape& shape, const SketchQuery& query,
                    std::span<const std::byte> store, std::span<const int32_t> pages,
                    View<float, 2> scores) const override;
};

}  // namespace freekv
