#include "eval/random.hpp"

namespace freekv::eval {

uint64_t hash(std::string_view text) {
  uint64_t value = 0xcbf29ce484222325;
  for (char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return value;
}

uint64_t Random::below(uint64_t n) {
  // Draws above the last whole multiple of n would favour small results.
  const uint64_t surplus = (UINT64_MAX % n + 1) % n;
  uint64_t draw = engine_();
  while (draw > UINT64_MAX - surplus) draw = engine_();
  return draw % n;
}

}  // namespace freekv::eval
