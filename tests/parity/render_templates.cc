// render_templates < JSON lines > JSON lines
//
// Each line is {"template", "variables"}: a template's source and the variables it sees. Answers
// {"text"} or {"error", "code"} for test_templates.py, which holds them against jinja2.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "tokenizer/jinja/template.hpp"

namespace {

using Json = nlohmann::ordered_json;
using freekv::jinja::Dict;
using freekv::jinja::List;
using freekv::jinja::Value;

Value to_value(const Json& json) {
  switch (json.type()) {
    case Json::value_t::null:
      return {};
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return json.get<int64_t>();
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string:
      return json.get<std::string>();
    case Json::value_t::array: {
      List list;
      for (const Json& item : json) list.items.push_back(to_value(item));
      return list;
    }
    default: {
      Dict dict;
      for (const auto& [key, item] : json.items()) dict.items.emplace_back(key, to_value(item));
      return dict;
    }
  }
}

Json answer(const freekv::Error& error) {
  return {{"error", error.message()}, {"code", static_cast<int>(error.code())}};
}

Json render(const Json& request) {
  auto parsed = freekv::jinja::Template::parse(request.at("template").get<std::string>());
  if (!parsed.ok()) return answer(parsed.error());
  const Value variables = to_value(request.at("variables"));
  auto text = parsed.value().render(variables.dict());
  if (!text.ok()) return answer(text.error());
  return {{"text", text.value()}};
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << render(Json::parse(line)).dump() << '\n';
  }
  return 0;
}
