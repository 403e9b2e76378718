#include "eval/names.hpp"

#include <fmt/format.h>

#include "core/check.hpp"
#include "eval/words.hpp"

namespace freekv::eval {

std::string Names::fresh(const std::string& kind, const std::function<std::string()>& draw) {
  for (int tries = 0; tries < 10000; ++tries) {
    std::string value = draw();
    if (used_.emplace(kind, value).second) return value;
  }
  fail(ErrorCode::kInvalidArgument,
       "a sample asks for more than the {} different names of kind \"{}\" there are", used_.size(),
       kind);
}

std::string Names::pair() {
  const std::string_view adjective = random_.choice(adjectives());
  return fmt::format("{}-{}", adjective, random_.choice(nouns()));
}

std::string Names::key() {
  return fresh("key", [this] { return pair(); });
}

std::string Names::noun(const std::string& kind) {
  const auto first = used_.lower_bound({kind, ""});
  size_t drawn = 0;
  for (auto at = first; at != used_.end() && at->first == kind; ++at) ++drawn;
  if (2 * drawn >= nouns().size()) {
    return fresh(kind, [this] { return pair(); });
  }
  return fresh(kind, [this] { return std::string(random_.choice(nouns())); });
}

std::string Names::variable() {
  return fresh("variable", [this] {
    const std::string_view head = random_.choice(name_heads());
    return fmt::format("{}{}", head, random_.choice(name_tails()));
  });
}

std::string Names::digits(int count) {
  uint64_t low = 1;
  for (int i = 1; i < count; ++i) low *= 10;
  return fresh(fmt::format("{} digits", count),
               [&] { return fmt::format("{}", low + random_.below(9 * low)); });
}

std::string Names::value(const std::string& style) {
  if (style == "numbers") return digits(7);
  if (style == "words") {
    return fresh("value", [this] { return pair(); });
  }
  // Version 4, as RULER draws them.
  const uint64_t high = (random_.bits() & ~0xf000ULL) | 0x4000ULL;
  const uint64_t low = (random_.bits() >> 2) | 0x8000000000000000ULL;
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, high >> 16 & 0xffff,
                     high & 0xffff, low >> 48, low & 0xffffffffffffULL);
}

}  // namespace freekv::eval
