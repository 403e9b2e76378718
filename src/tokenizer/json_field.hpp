// A value of an untrusted JSON document together with its name, so that errors can say both.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "freekv/error.hpp"

namespace freekv {

/// Borrows the document. A member that is missing and one that is null are the same: absent.
class JsonField {
 public:
  /// `name` is empty for the document itself; `file` goes to where() of errors.
  JsonField(const nlohmann::json* value, std::string name, const std::string& file)
      : value_(value), name_(std::move(name)), file_(&file) {}

  bool absent() const { return value_ == nullptr || value_->is_null(); }
  const std::string& name() const { return name_; }

  /// For these the value is present and of the type, or Error(kParse) says what it is instead.
  JsonField member(const std::string& key) const;  // of an object; may be absent
  std::vector<JsonField> elements() const;         // of an array
  std::string_view string() const;
  int64_t integer() const;
  bool boolean() const;

  bool is_string() const { return !absent() && value_->is_string(); }
  bool is_array() const { return !absent() && value_->is_array(); }
  bool is_object() const { return !absent() && value_->is_object(); }

  /// Defaults for what is absent.
  std::string_view string_or(std::string_view fallback) const {
    return absent() ? fallback : string();
  }
  bool boolean_or(bool fallback) const { return absent() ? fallback : boolean(); }

  /// Throws Error(code) "<name> is <value>, <what>".
  [[noreturn]] void refuse(ErrorCode code, std::string_view what) const;
  [[noreturn]] void refuse(std::string_view what) const { refuse(ErrorCode::kUnsupported, what); }

 private:
  const nlohmann::json& typed(bool right, std::string_view what) const;

  const nlohmann::json* value_;
  std::string name_;
  const std::string* file_;
};

}  // namespace freekv
