#include "tokenizer/jinja/template.hpp"

#include "core/check.hpp"
#include "tokenizer/jinja/interpreter.hpp"

namespace freekv::jinja {

Result<Template> Template::parse(std::string_view source) {
  try {
    return Template(parse_template(source));
  } catch (const Error& error) {
    return error;
  }
}

Result<std::string> Template::render(const Dict& variables, size_t limit) const {
  Interpreter interpreter(variables, limit);
  try {
    return interpreter.render(*body_);
  } catch (const Error& error) {
    return Error(error.code(), fmt::format("line {}: {}", interpreter.line(), error.message()));
  }
}

}  // namespace freekv::jinja
