#include "tokenizer/json_field.hpp"

#include <fmt/format.h>

#include "io/quote.hpp"

namespace freekv {
namespace {

std::string shown(const nlohmann::json* value) {
  if (value == nullptr || value->is_null()) return "missing or null";
  if (value->is_string()) return freekv::quoted(value->get_ref<const std::string&>());
  if (value->is_array()) return fmt::format("an array of {}", value->size());
  if (value->is_object()) return "an object";
  return value->dump();
}

}  // namespace

void JsonField::refuse(ErrorCode code, std::string_view what) const {
  const std::string name = name_.empty() ? "the document" : name_;
  throw Error(code, fmt::format("{} is {}, {}", name, shown(value_), what), *file_);
}

const nlohmann::json& JsonField::typed(bool right, std::string_view what) const {
  if (!right) refuse(ErrorCode::kParse, fmt::format("must be {}", what));
  return *value_;
}

JsonField JsonField::member(const std::string& key) const {
  const nlohmann::json& object = typed(is_object(), "an object");
  const auto it = object.find(key);
  const std::string label = quoted_if_odd(key);
  return {it == object.end() ? nullptr : &*it, name_.empty() ? label : name_ + "." + label, *file_};
}

std::vector<JsonField> JsonField::elements() const {
  const nlohmann::json& array = typed(is_array(), "an array");
  std::vector<JsonField> fields;
  fields.reserve(array.size());
  for (size_t i = 0; i < array.size(); ++i) {
    fields.emplace_back(&array[i], fmt::format("{}[{}]", name_, i), *file_);
  }
  return fields;
}

std::string_view JsonField::string() const {
  return typed(is_string(), "a string").get_ref<const std::string&>();
}

int64_t JsonField::integer() const {
  const bool right = !absent() && value_->is_number_integer() &&
                     (!value_->is_number_unsigned() || value_->get<uint64_t>() <= INT64_MAX);
  return typed(right, "an integer").get<int64_t>();
}

bool JsonField::boolean() const {
  return typed(!absent() && value_->is_boolean(), "true or false").get<bool>();
}

}  // namespace freekv
