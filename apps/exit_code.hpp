// How the program ends.
#pragma once

#include "freekv/error.hpp"

namespace freekv::app {

inline constexpr int kFailed = 1;         // the machine or this program failed
inline constexpr int kBadInput = 2;       // a file, option or prompt cannot be used
inline constexpr int kInterrupted = 130;  // Ctrl-C, as shells count it

/// Thrown by a command that has said everything and ends with this code.
struct ExitRequest {
  int code;
};

inline int exit_code(const Error& error) {
  switch (error.code()) {
    case ErrorCode::kInternal:
    case ErrorCode::kOutOfMemory:
      return kFailed;
    case ErrorCode::kCancelled:
      return kInterrupted;
    default:
      return kBadInput;
  }
}

}  // namespace freekv::app
