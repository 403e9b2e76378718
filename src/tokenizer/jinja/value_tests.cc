// The tests of jinja2: `value is name(arguments)`.
#include "core/check.hpp"
#include "io/quote.hpp"
#include "tokenizer/jinja/operations.hpp"

namespace freekv::jinja {
namespace {

std::optional<bool> type_test(std::string_view name, const Value& value) {
  if (name == "defined") return !value.is_undefined();
  if (name == "undefined") return value.is_undefined();
  if (name == "none") return value.is_none();
  if (name == "boolean") return value.is_bool();
  if (name == "true") return value.is_bool() && value.boolean();
  if (name == "false") return value.is_bool() && !value.boolean();
  if (name == "integer") return value.is_integer() && !value.is_bool();
  if (name == "float") return value.is_float();
  if (name == "number") return value.is_number();
  if (name == "string") return value.is_text();
  if (name == "mapping") return value.is_dict();
  // An undefined value behaves as an empty sequence.
  const bool plain = value.is_text() || value.is_dict() || value.is_undefined();
  if (name == "iterable") return plain || value.is_list();
  if (name == "sequence") {
    return plain || (value.is_list() && (value.list().kind == List::Kind::kList ||
                                         value.list().kind == List::Kind::kTuple));
  }
  return std::nullopt;
}

std::optional<Operator> comparison_test(std::string_view name) {
  if (name == "eq" || name == "equalto" || name == "==") return Operator::kEqual;
  if (name == "ne" || name == "!=") return Operator::kNotEqual;
  if (name == "lt" || name == "lessthan" || name == "<") return Operator::kLess;
  if (name == "le" || name == "<=") return Operator::kLessEqual;
  if (name == "gt" || name == "greaterthan" || name == ">") return Operator::kGreater;
  if (name == "ge" || name == ">=") return Operator::kGreaterEqual;
  if (name == "in") return Operator::kIn;
  return std::nullopt;
}

bool tested(std::string_view name, const Value& value, Arguments& arguments, Meter& meter) {
  if (const auto holds = type_test(name, value)) return *holds;
  if (const auto op = comparison_test(name)) {
    return compare(*op, value, arguments.need(0, "other"), meter);
  }
  const auto remainder = [&](const Value& divisor) {
    return binary(Operator::kModulo, value, divisor, meter);
  };
  if (name == "odd") return equal(remainder(int64_t{2}), int64_t{1}, meter);
  if (name == "even") return equal(remainder(int64_t{2}), int64_t{0}, meter);
  if (name == "divisibleby") {
    return equal(remainder(arguments.need(0, "num")), int64_t{0}, meter);
  }
  if (name == "lower" || name == "upper") {
    return truth(call_method(metered_text(to_text(value, meter), meter),
                             name == "lower" ? "islower" : "isupper", {}, meter));
  }
  fail(ErrorCode::kUnsupported, "the test {} is not supported", quoted(name));
}

}  // namespace

bool apply_test(std::string_view name, const Value& value, Arguments arguments, Meter& meter) {
  meter.charge(sizeof(Value));
  const bool holds = tested(name, value, arguments, meter);
  arguments.check_all_used(name);
  return holds;
}

}  // namespace freekv::jinja
