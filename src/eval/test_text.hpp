// Text and token counts for tests that need no model.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>

#include "eval/haystack.hpp"

namespace freekv::eval {

/// Four bytes a token.
inline int64_t count_bytes(std::string_view text) {
  return static_cast<int64_t>((text.size() + 3) / 4);
}

inline std::string running_text(int sentences) {
  std::string text;
  for (int i = 0; i < sentences; ++i) {
    text += fmt::format("The {} houses stood by the sea. And nobody came", i);
    text += i % 5 == 4 ? ".\n" : ". ";
  }
  return text;
}

inline std::shared_ptr<const Haystack> test_haystack() {
  return std::make_shared<Haystack>(running_text(400), "test");
}

}  // namespace freekv::eval
