// What naive.cc knows of a page, in plain loops over its keys: boxes, exact attention mass, and
// keys of 2 bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "backends/tensors.hpp"
#include "core/view.hpp"

namespace freekv::invariants {

struct Box {
  std::vector<double> hi, lo;
};

inline Box make_box(const KvPool& pool, int32_t page, int head, bool cuboid) {
  const KvShape& shape = pool.shape;
  Box box{std::vector<double>(static_cast<size_t>(shape.head_dim), -1e30),
          std::vector<double>(static_cast<size_t>(shape.head_dim), 1e30)};
  const auto key = [&](int t, size_t e) {
    return static_cast<double>(load_element(
        shape.dtype, pool.keys(page, head) + static_cast<size_t>(t) * pool.token_stride(),
        static_cast<int64_t>(e)));
  };
  // Values are kept in the KV type.
  const auto rounded = [&](double x) {
    std::byte bytes[4];
    store_element(shape.dtype, bytes, 0, static_cast<float>(x));
    return static_cast<double>(load_element(shape.dtype, bytes, 0));
  };
  for (size_t e = 0; e < box.hi.size(); ++e) {
    for (int t = 0; t < shape.page; ++t) {
      box.hi[e] = std::max(box.hi[e], key(t, e));
      box.lo[e] = std::min(box.lo[e], key(t, e));
    }
    if (!cuboid) continue;
    const double centre = (box.hi[e] + box.lo[e]) / 2;
    double radius = 0;
    for (int t = 0; t < shape.page; ++t) radius += std::abs(key(t, e) - centre);
    box.hi[e] = rounded(centre + radius / shape.page);
    box.lo[e] = rounded(centre - radius / shape.page);
  }
  return box;
}

inline double key_at(const KvPool& pool, int32_t page, int head, int t, int64_t e) {
  const std::byte* row = pool.keys(page, head) + static_cast<size_t>(t) * pool.token_stride();
  return load_element(pool.shape.dtype, row, e);
}

inline double exact_mass(const KvPool& pool, int32_t page, int head, View<const float, 1> q,
                         int tokens) {
  double mass = 0;
  for (int t = 0; t < tokens; ++t) {
    double dot = 0;
    for (int64_t e = 0; e < q.shape(0); ++e) dot += q[e] * key_at(pool, page, head, t, e);
    mass += std::exp(dot / std::sqrt(static_cast<double>(q.shape(0))));
  }
  return mass;
}

// Keys of 2 bits, and weights of 8: all that is rounded is rounded as the sketch says.
struct TwoBitKeys {
  std::vector<float> lo, step;
  std::vector<std::vector<int>> levels;  // [token][channel]

  TwoBitKeys() = default;
  TwoBitKeys(const KvPool& pool, int32_t page, int head) {
    const KvShape& shape = pool.shape;
    levels.assign(static_cast<size_t>(shape.page), {});
    const auto rounded = [&](float x) {
      std::byte bytes[4];
      store_element(shape.dtype, bytes, 0, x);
      return load_element(shape.dtype, bytes, 0);
    };
    for (int64_t e = 0; e < shape.head_dim; ++e) {
      std::vector<float> keys;
      for (int t = 0; t < shape.page; ++t) {
        keys.push_back(static_cast<float>(key_at(pool, page, head, t, e)));
      }
      const auto [low, high] = std::minmax_element(keys.begin(), keys.end());
      lo.push_back(*low);
      step.push_back(rounded(0.25f * *high - 0.25f * *low));
      for (size_t t = 0; t < keys.size(); ++t) {
        const float steps = step.back() > 0 ? (keys[t] - *low) / step.back() : 0;
        levels[t].push_back(std::min(3, static_cast<int>(steps)));
      }
    }
  }

  double mass(View<const float, 1> q) const {
    double base = 0;
    float largest = 0;
    std::vector<float> products;
    for (size_t e = 0; e < lo.size(); ++e) {
      const float query = q[static_cast<int64_t>(e)];
      base += query * (lo[e] + 0.5 * step[e]);
      products.push_back(query * step[e]);
      largest = std::max(largest, std::abs(products.back()));
    }
    double mass = 0;
    for (const auto& token : levels) {
      double sum = 0;
      for (size_t e = 0; e < lo.size(); ++e) {
        sum += std::nearbyint(products[e] * (127 / largest)) * token[e];
      }
      mass += std::exp((base + static_cast<double>(largest) / 127 * sum) /
                       std::sqrt(static_cast<double>(lo.size())));
    }
    return mass;
  }
};

}  // namespace freekv::invariants
