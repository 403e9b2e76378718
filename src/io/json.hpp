// Untrusted JSON files with typed access to their fields, in Errors that name file and field.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "freekv/error.hpp"

namespace freekv {

/// Parses a whole document. `source` names the file in errors. Throws Error(kParse) naming the
/// field that the text breaks off in (NaN and Infinity are no JSON), also when values nest deeper
/// than 64; takes memory in proportion to the text.
nlohmann::json parse_json(std::string_view text, const std::string& source);

/// The values of one JSON object. Absent and null are the same: nullopt. A value of another type,
/// or one out of range, throws Error(kParse) with its text and what it must be. Borrows the value.
class JsonObject {
 public:
  /// `prefix` stands before the keys in errors ("rope_scaling."). Throws when it is no object.
  JsonObject(const nlohmann::json& value, std::string source, std::string prefix = "");

  const std::string& source() const { return source_; }
  std::string label(std::string_view key) const;

  bool has(std::string_view key) const { return find(key) != nullptr; }
  std::optional<uint64_t> find_u64(std::string_view key) const;  // an integer of 0 or more
  std::optional<double> find_number(std::string_view key) const;
  std::optional<bool> find_bool(std::string_view key) const;
  std::optional<std::string> find_string(std::string_view key) const;
  std::optional<std::vector<std::string>> find_strings(std::string_view key) const;
  /// One integer of 0 or more, or an array of them.
  std::optional<std::vector<uint64_t>> find_u64s(std::string_view key) const;
  std::optional<JsonObject> find_object(std::string_view key) const;
  std::vector<std::string> keys() const;

 private:
  const nlohmann::json* find(std::string_view key) const;
  [[noreturn]] void refuse(std::string_view key, const nlohmann::json& value,
                           std::string_view expected) const;

  const nlohmann::json* value_;
  std::string source_;
  std::string prefix_;
};

/// A JSON file that owns its values; its top level must be an object.
class JsonFile {
 public:
  /// Maps and parses. Errors are those of MappedFile::open and parse_json; a file of more than
  /// `max_bytes` is refused.
  static Result<JsonFile> open(const std::string& path, size_t max_bytes);
  static Result<JsonFile> parse(std::string_view text, const std::string& source);

  JsonFile(JsonFile&& other) noexcept;
  JsonFile& operator=(JsonFile&& other) noexcept;
  ~JsonFile();

  JsonObject root() const;

 private:
  JsonFile(std::unique_ptr<nlohmann::json> value, std::string source);

  std::unique_ptr<nlohmann::json> value_;
  std::string source_;
};

}  // namespace freekv
