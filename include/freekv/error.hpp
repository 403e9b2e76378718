// The one exception type of the library, and Result<T> for work that is expected to fail.
#pragma once

#include <exception>
#include <string>
#include <utility>
#include <variant>

namespace freekv {

enum class ErrorCode {
  kInvalidArgument = 1,  // the caller asked for something that cannot be
  kNotFound,             // a file or a name does not exist
  kParse,                // untrusted bytes do not follow their format
  kUnsupported,          // well-formed, but not something this build runs
  kOutOfMemory,          // a memory limit, the user's or the machine's
  kIo,                   // the operating system refused or failed
  kCancelled,            // the caller asked to stop
  kDevice,               // an accelerator or its driver is missing, refused or was lost
  kInternal,             // a defect in this library
};

/// Message texts name the field and give both values ("k_heads is 3, must divide heads = 8");
/// `where` names the file, tensor or option the message is about, and may be empty.
class Error : public std::exception {
 public:
  Error(ErrorCode code, std::string message, std::string where = "")
      : code_(code),
        message_(std::move(message)),
        where_(std::move(where)),
        what_(where_.empty() ? message_ : where_ + ": " + message_) {}

  ErrorCode code() const { return code_; }
  const std::string& message() const { return message_; }
  const std::string& where() const { return where_; }
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  ErrorCode code_;
  std::string message_;
  std::string where_;
  std::string what_;
};

/// Either a value or the Error that kept it from being made. For parsing untrusted input and for
/// admission decisions, where failing is ordinary; elsewhere the Error is thrown.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return std::get<Error>(state_); }

  /// The value, or throws the Error.
  T& value() & {
    if (!ok()) throw error();
    return std::get<T>(state_);
  }
  T&& value() && {
    if (!ok()) throw error();
    return std::get<T>(std::move(state_));
  }

 private:
  std::variant<T, Error> state_;
};

}  // namespace freekv
