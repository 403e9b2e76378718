// Data files of suites: a JSON list of objects, or one JSON object a line.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace freekv::eval {

/// One object of a file. Every accessor throws Error(kParse) naming file, line (or record of a
/// list) and field when the field is missing or of another type.
class Record {
 public:
  Record(nlohmann::json object, std::string where)
      : object_(std::move(object)), where_(std::move(where)) {}

  const nlohmann::json& field(const std::string& name) const;
  std::string text(const std::string& name) const;
  /// A string, or a number as its text.
  std::string text_or_number(const std::string& name) const;
  int64_t integer(const std::string& name, int64_t low, int64_t high) const;
  bool has(const std::string& name) const { return object_.contains(name); }
  /// Throws the Error of a field that is not what it must be.
  [[noreturn]] void refuse(const std::string& name, const std::string& must_be) const;
  const std::string& where() const { return where_; }

 private:
  nlohmann::json object_;
  std::string where_;
};

/// At least one record. Throws Error naming the file, and the line that is no JSON object.
std::vector<Record> read_records(const std::string& path);
/// The same from bytes; `path` is what errors name.
std::vector<Record> parse_records(std::string_view bytes, const std::string& path);
/// One line of a JSONL file.
Record parse_line(std::string_view line, const std::string& path, size_t number);

}  // namespace freekv::eval
