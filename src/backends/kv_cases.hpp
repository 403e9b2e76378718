// The table of cases of KV movement, decode attention and selection. See op_cases.hpp.
#pragma once

#include <fmt/ranges.h>

#include <array>
#include <deque>
#include <string>
#include <vector>

#include "backends/op_cases.hpp"

namespace freekv::cases {

inline std::string shape_name(const KvShape& shape, KvLayout layout) {
  return fmt::format("{} {} M={} d={} p={}", dtype_name(shape.dtype),
                     layout == KvLayout::kNHD ? "NHD" : "HND", shape.heads, shape.head_dim,
                     shape.page);
}

/// Shapes around vectors of 4, 8 and 16, every head dimension models have, odd pages.
inline std::vector<KvShape> kv_shapes() {
  std::vector<KvShape> result;
  for (const DType dtype : kKvTypes) {
    for (const auto& [heads, dim, page] :
         {std::array{1, 8, 1}, std::array{2, 64, 32}, std::array{3, 80, 16}, std::array{1, 96, 64},
          std::array{2, 128, 7}, std::array{5, 256, 3}}) {
      result.push_back({heads, dim, page, dtype});
    }
  }
  return result;
}

// --- decode attention ----------------------------------------------------------------------------

/// A batch of sequences of these lengths, all KV heads of each.
struct DecodeCase {
  KvShape shape;
  KvLayout layout;
  int group;
  std::vector<int64_t> tokens;

  std::string name() const {
    return fmt::format("{} G={} T={}", shape_name(shape, layout), group, fmt::join(tokens, ","));
  }
};

inline std::vector<DecodeCase> decode_cases() {
  std::vector<DecodeCase> result;
  const auto add = [&](int heads, int dim, int page, int group, std::vector<int64_t> tokens) {
    for (const DType dtype : kKvTypes) {
      for (const KvLayout layout : kLayouts) {
        result.push_back({{heads, dim, page, dtype}, layout, group, tokens});
      }
    }
  };
  // Every group; lengths around a page of 32, a tile of 128 and a split of 512 tokens.
  for (int group = 1; group <= 16; ++group) add(1, 64, 32, group, {33, 129});
  add(2, 64, 32, 4, {0, 1, 31, 32, 33});
  add(2, 64, 32, 4, {127, 128, 511, 512, 513});
  add(1, 64, 32, 3, {1100, 5, 2000});
  // Every head dimension, including a half vector of 16 alone and after whole ones.
  for (const int dim : {8, 16, 24, 72, 80, 96, 128, 256}) add(1, dim, 16, 4, {40});
  for (const int dim : {80, 96, 256}) {
    for (const int group : {1, 3, 16}) add(1, dim, 16, group, {50});
  }
  add(1, 72, 16, 7, {40, 600});
  add(2, 256, 16, 16, {70});
  // Pages that divide nothing, of one token, and longer than a tile.
  for (const int page : {1, 3, 64, 200}) add(2, 64, page, 2, {1, 199, 201});
  // More than 64 splits of 512 tokens: splits grow.
  result.push_back({{1, 16, 32, DType::kF16}, KvLayout::kNHD, 2, {33000, 700}});
  return result;
}

/// The inputs of a DecodeCase. What no row attends to is NaN.
class DecodeInputs {
 public:
  explicit DecodeInputs(const DecodeCase& c, float deviation = 1) : case_(c) {
    uint32_t seed = 1;
    for (const int64_t n : c.tokens) kv_.emplace_back(c.shape, c.layout, n, seed += 2);
    for (size_t s = 0; s < kv_.size(); ++s) {
      const auto last = static_cast<int>((c.tokens[s] - 1) % c.shape.page + 1);
      for (int head = 0; head < c.shape.heads; ++head) {
        rows_.push_back({kv_[s].pool(), head, kv_[s].slots(), kv_[s].slots().empty() ? 0 : last});
      }
    }
    q_ = random_floats(size(), 99, deviation);
  }

  std::span<const AttentionRow> rows() const { return rows_; }
  int64_t row_size() const { return int64_t{1} * case_.group * case_.shape.head_dim; }
  int64_t size() const { return static_cast<int64_t>(rows_.size()) * row_size(); }
  View<const float, 3> q() const {
    return View<const float, 3>(q_.data(), rows_.size(), case_.group, case_.shape.head_dim);
  }
  BackendLimits limits() const {
    BackendLimits limits;
    limits.max_rows = static_cast<int64_t>(case_.tokens.size());
    for (const AttentionRow& row : rows_) {
      limits.max_pages = std::max(limits.max_pages, static_cast<int64_t>(row.slots.size()));
    }
    limits.heads = case_.shape.heads * case_.group;
    limits.kv_heads = case_.shape.heads;
    limits.head_dim = case_.shape.head_dim;
    limits.page = case_.shape.page;
    return limits;
  }

 private:
  DecodeCase case_;
  std::deque<PagedKv> kv_;
  std::vector<AttentionRow> rows_;
  std::vector<float> q_;
};

}  // namespace freekv::cases
