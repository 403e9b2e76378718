#include "io/quote.hpp"

#include <fmt/format.h>

#include <iterator>

namespace freekv {

std::string quoted(std::string_view text) {
  constexpr size_t kLimit = 80;
  std::string result = "'";
  for (const char c : text.substr(0, kLimit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      result += c;
    } else {
      fmt::format_to(std::back_inserter(result), "\\x{:02x}", byte);
    }
  }
  result += '\'';
  if (text.size() > kLimit) result += "...";
  return result;
}

std::string quoted_if_odd(std::string_view text) {
  std::string result = quoted(text);
  const bool plain = result.size() == text.size() + 2 && result.compare(1, text.size(), text) == 0;
  return plain ? std::string(text) : result;
}

}  // namespace freekv
