#include "io/json.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/check.hpp"
#include "io/mapped_file.hpp"
#include "io/quote.hpp"

namespace freekv {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;

/// What an error shows of a value that has the wrong type.
std::string value_text(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("an array of {}", value.size());
  if (value.is_string()) return freekv::quoted(value.get_ref<const std::string&>());
  return value.dump();
}

bool is_count(const json& value) { return value.is_number_unsigned(); }

}  // namespace

json parse_json(std::string_view text, const std::string& source) {
  std::string field;  // the key seen last
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) {
      throw Error(ErrorCode::kParse,
                  fmt::format("values nest {} deep at {}, at most {} are read", depth,
                              freekv::quoted(field), kMaxDepth),
                  source);
    }
    if (event == json::parse_event_t::key) field = parsed.get_ref<const std::string&>();
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::parse_error& error) {
    throw Error(ErrorCode::kParse,
                fmt::format("is no JSON at byte {} of {}, in or after field {}", error.byte,
                            text.size(), freekv::quoted(field)),
                source);
  } catch (const json::exception&) {
    throw Error(ErrorCode::kParse,
                fmt::format("field {} holds a number out of range", freekv::quoted(field)), source);
  }
}

JsonObject::JsonObject(const json& value, std::string source, std::string prefix)
    : value_(&value), source_(std::move(source)), prefix_(std::move(prefix)) {
  if (!value.is_object()) {
    const std::string name =
        prefix_.empty() ? "the document" : prefix_.substr(0, prefix_.size() - 1);
    throw Error(ErrorCode::kParse,
                fmt::format("{} is {}, must be an object", name, value_text(value)), source_);
  }
}

std::string JsonObject::label(std::string_view key) const { return prefix_ + quoted_if_odd(key); }

const json* JsonObject::find(std::string_view key) const {
  const auto it = value_->find(key);
  return it == value_->end() || it->is_null() ? nullptr : &*it;
}

void JsonObject::refuse(std::string_view key, const json& value, std::string_view expected) const {
  throw Error(ErrorCode::kParse,
              fmt::format("{} is {}, must be {}", label(key), value_text(value), expected),
              source_);
}

std::optional<uint64_t> JsonObject::find_u64(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!is_count(*value)) refuse(key, *value, "an integer of 0 or more");
  return value->get<uint64_t>();
}

std::optional<double> JsonObject::find_number(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) refuse(key, *value, "a number");
  return value->get<double>();
}

std::optional<bool> JsonObject::find_bool(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) refuse(key, *value, "true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonObject::find_string(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) refuse(key, *value, "a string");
  return value->get<std::string>();
}

std::optional<std::vector<std::string>> JsonObject::find_strings(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array()) refuse(key, *value, "an array of strings");
  std::vector<std::string> strings;
  for (const json& element : *value) {
    if (!element.is_string()) refuse(key, element, "an array of strings");
    strings.push_back(element.get<std::string>());
  }
  return strings;
}

std::optional<std::vector<uint64_t>> JsonObject::find_u64s(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (is_count(*value)) return std::vector<uint64_t>{value->get<uint64_t>()};
  if (!value->is_array()) refuse(key, *value, "integers of 0 or more");
  std::vector<uint64_t> numbers;
  for (const json& element : *value) {
    if (!is_count(element)) refuse(key, element, "integers of 0 or more");
    numbers.push_back(element.get<uint64_t>());
  }
  return numbers;
}

std::optional<JsonObject> JsonObject::find_object(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  return JsonObject(*value, source_, label(key) + ".");
}

std::vector<std::string> JsonObject::keys() const {
  std::vector<std::string> keys;
  for (const auto& item : value_->items()) keys.push_back(item.key());
  return keys;
}

Result<JsonFile> JsonFile::open(const std::string& path, size_t max_bytes) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return file.error();
  const auto bytes = file.value().bytes();
  if (bytes.size() > max_bytes) {
    return Error(ErrorCode::kParse,
                 fmt::format("has {} bytes, at most {} are read", bytes.size(), max_bytes), path);
  }
  return parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

Result<JsonFile> JsonFile::parse(std::string_view text, const std::string& source) {
  try {
    JsonFile file(std::make_unique<json>(parse_json(text, source)), source);
    file.root();
    return file;
  } catch (const Error& error) {
    return error;
  }
}

JsonFile::JsonFile(std::unique_ptr<json> value, std::string source)
    : value_(std::move(value)), source_(std::move(source)) {}
JsonFile::JsonFile(JsonFile&& other) noexcept = default;
JsonFile& JsonFile::operator=(JsonFile&& other) noexcept = default;
JsonFile::~JsonFile() = default;

JsonObject JsonFile::root() const { return JsonObject(*value_, source_); }

}  // namespace freekv
