#include "engine/kept_queries.hpp"

#include <algorithm>

#include "core/check.hpp"

namespace freekv {

KeptQueries::KeptQueries(int layers, int query_heads, int head_dim, int64_t tokens)
    : heads_(query_heads),
      dim_(head_dim),
      tokens_(tokens),
      memory_(static_cast<size_t>(layers * heads_ * dim_) * static_cast<size_t>(tokens) *
              sizeof(float)) {}

void KeptQueries::begin(int64_t size, int64_t computed) {
  first_ = std::max(size - tokens_, computed);
}

void KeptQueries::store(int layer, int64_t position, View<const float, 3> q) {
  const int64_t from = std::max(position, first_), end = position + q.shape(0);
  if (from >= end) return;
  std::copy_n(q[from - position].data(), (end - from) * heads_ * dim_,
              memory_.as<float>().data() + offset(layer, from));
}

View<const float, 3> KeptQueries::of(int layer, int64_t position, int64_t n) const {
  check_internal(position >= first_ && position + n <= first_ + tokens_,
                 "queries of tokens {} to {} are asked for, kept are {} from {} on", position,
                 position + n, tokens_, first_);
  const auto* all = reinterpret_cast<const float*>(memory_.data());
  return View<const float, 3>(all + offset(layer, position), n, heads_, dim_);
}

size_t KeptQueries::offset(int layer, int64_t position) const {
  return static_cast<size_t>((layer * tokens_ + position - first_) * heads_ * dim_);
}

}  // namespace freekv
