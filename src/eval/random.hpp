// Random draws that are the same on every machine: the standard fixes std::mt19937_64's numbers,
// but not what its distributions and std::shuffle make of them.
#pragma once

#include <cstdint>
#include <random>
#include <string_view>
#include <utility>

namespace freekv::eval {

/// FNV-1a, 64 bits: seeds by name, and short marks of a text.
uint64_t hash(std::string_view text);

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  /// One stream for each purpose: "ruler/niah-single 7 3" and the like.
  explicit Random(std::string_view purpose) : engine_(hash(purpose)) {}

  uint64_t bits() { return engine_(); }
  /// Uniform over [0, n), n >= 1.
  uint64_t below(uint64_t n);
  /// Uniform over [low, high].
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(below(static_cast<uint64_t>(high - low) + 1));
  }
  /// Uniform over [0, 1), 53 bits.
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  template <typename Items>
  const auto& choice(const Items& items) {
    return items[static_cast<size_t>(below(items.size()))];
  }
  template <typename Items>
  void shuffle(Items& items) {
    for (size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[static_cast<size_t>(below(i))]);
    }
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace freekv::eval
