// Guards for what a caller or a file promised. A failing check throws Error with both values.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

#include "freekv/error.hpp"

namespace freekv {

template <typename... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

/// For what a caller passes in.
template <typename... Args>
void check_argument(bool holds, fmt::format_string<Args...> format, Args&&... args) {
  if (!holds) fail(ErrorCode::kInvalidArgument, format, std::forward<Args>(args)...);
}

/// For what this library promised itself.
template <typename... Args>
void check_internal(bool holds, fmt::format_string<Args...> format, Args&&... args) {
  if (!holds) fail(ErrorCode::kInternal, format, std::forward<Args>(args)...);
}

}  // namespace freekv
