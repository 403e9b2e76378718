#include "fake_model.hpp"

#include <cmath>

namespace freekv::invariants {

void FakeModel::describe(uint64_t seed, View<float, 1> x) {
  for (int64_t i = 0; i < kInput; ++i) x[i] = static_cast<float>((seed >> (16 * i)) & 0xffff);
}

void FakeModel::project_query(ExecutionContext&, Backend&, int layer, View<const float, 2> x,
                              std::span<const int64_t> positions, View<float, 2> q) const {
  for (int64_t s = 0; s < x.shape(0); ++s) {
    uint64_t seed = 0;
    for (int64_t i = 0; i < kInput; ++i) seed |= static_cast<uint64_t>(x[s][i]) << (16 * i);
    const View<float, 3> row(q[s].data(), kv_heads_, group_, dim_);
    Inputs(seed).query(layer, positions[static_cast<size_t>(s)], row);
    // Off by a wave of its own in every channel.
    for (int64_t i = 0; i < row.size(); ++i)
      row.data()[i] += 0.3f * std::sin(static_cast<float>(i));
  }
}

void FakeModel::rotate(int64_t position, int64_t, bool back, View<float, 2> x) const {
  for (int64_t h = 0; h < x.shape(0); ++h) {
    for (int64_t i = 0; i < x.shape(1) / 2; ++i) {
      const double angle = static_cast<double>(position) *
                           std::pow(10000.0, -2.0 * static_cast<double>(i) / x.shape(1));
      const auto cos = static_cast<float>(std::cos(angle));
      const auto sin = static_cast<float>(back ? -std::sin(angle) : std::sin(angle));
      float& a = x[h][2 * i];
      float& b = x[h][2 * i + 1];
      const float turned = a * cos - b * sin;
      b = a * sin + b * cos;
      a = turned;
    }
  }
}

}  // namespace freekv::invariants
