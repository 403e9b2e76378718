#include "eval/records.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "eval/scoring.hpp"
#include "freekv/error.hpp"
#include "io/mapped_file.hpp"

namespace freekv::eval {
namespace {

using nlohmann::json;

[[noreturn]] void malformed(const std::string& where, const std::string& message) {
  throw Error(ErrorCode::kParse, message, where);
}

/// nlohmann's destructor and dump recurse; hundreds of thousands of brackets would end the stack.
void check_depth(std::string_view text, const std::string& where) {
  constexpr int kDeepest = 100;
  int depth = 0;
  bool quoted = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted) {
      if (c == '\\') ++at;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kDeepest) {
        malformed(where, fmt::format("is nested deeper than {} levels", kDeepest));
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

}  // namespace

void Record::refuse(const std::string& name, const std::string& must_be) const {
  if (!has(name)) malformed(where_, fmt::format("field \"{}\" is missing", name));
  const json& value = object_.at(name);
  std::string shown = value.is_structured()
                          ? fmt::format("a JSON {}", value.type_name())
                          : value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (shown.size() > 60) shown = shown.substr(0, 60) + "...";
  malformed(where_, fmt::format("field \"{}\" is {}, must be {}", name, shown, must_be));
}

const json& Record::field(const std::string& name) const {
  if (!has(name)) refuse(name, "there");
  return object_.at(name);
}

std::string Record::text(const std::string& name) const {
  if (!field(name).is_string()) refuse(name, "a string");
  return field(name).get<std::string>();
}

std::string Record::text_or_number(const std::string& name) const {
  const json& value = field(name);
  if (value.is_number()) return value.dump();
  if (!value.is_string()) refuse(name, "a string or a number");
  return value.get<std::string>();
}

int64_t Record::integer(const std::string& name, int64_t low, int64_t high) const {
  const json& value = field(name);
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
  const int64_t number = fits ? value.get<int64_t>() : 0;
  if (!fits || number < low || number > high) {
    refuse(name, fmt::format("a whole number from {} to {}", low, high));
  }
  return number;
}

Record parse_line(std::string_view line, const std::string& path, size_t number) {
  const std::string where = fmt::format("{}: line {}", path, number);
  check_depth(line, where);
  json object = json::parse(line.begin(), line.end(), nullptr, false);
  if (!object.is_object()) malformed(where, "is not a JSON object");
  return {std::move(object), where};
}

std::vector<Record> parse_records(std::string_view bytes, const std::string& path) {
  std::vector<Record> records;
  if (trimmed(bytes).substr(0, 1) == "[") {
    check_depth(bytes, path);
    json list = json::parse(bytes.begin(), bytes.end(), nullptr, false);
    if (!list.is_array()) malformed(path, "begins like a JSON list but is not one");
    for (json& entry : list) {
      const std::string where = fmt::format("{}: record {}", path, records.size() + 1);
      if (!entry.is_object()) malformed(where, "is not a JSON object");
      records.emplace_back(std::move(entry), where);
    }
  } else {
    size_t number = 0;
    while (!bytes.empty()) {
      const std::string_view line = bytes.substr(0, bytes.find('\n'));
      bytes.remove_prefix(std::min(bytes.size(), line.size() + 1));
      ++number;
      if (!trimmed(line).empty()) records.push_back(parse_line(line, path, number));
    }
  }
  if (records.empty()) malformed(path, "has no records");
  return records;
}

std::vector<Record> read_records(const std::string& path) {
  const MappedFile file = MappedFile::open(path).value();
  const auto bytes = file.bytes();
  return parse_records({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

}  // namespace freekv::eval
