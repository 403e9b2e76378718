// The interpreter's half that evaluates expressions.
#include "core/check.hpp"
#include "io/quote.hpp"
#include "tokenizer/jinja/interpreter.hpp"
#include "tokenizer/jinja/objects.hpp"

namespace freekv::jinja {
namespace {

// Deepest recursion through expressions and macros: what a thread's stack holds with room to spare,
// in sanitizer builds too.
constexpr int kMaxRecursion = 400;

}  // namespace

class Interpreter::Level {
 public:
  explicit Level(Interpreter& interpreter) : interpreter_(interpreter) {
    if (++interpreter_.depth_ <= kMaxRecursion) return;
    --interpreter_.depth_;
    fail(ErrorCode::kUnsupported, "expressions and macros deeper than {}", kMaxRecursion);
  }
  ~Level() { --interpreter_.depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  Interpreter& interpreter_;
};

Value Interpreter::evaluate(const Expression& expression, Frame& frame) {
  const Level level(*this);
  line_ = expression.line;
  meter_.charge(sizeof(Value));
  return evaluate_node(expression, frame);
}

Value Interpreter::evaluate_node(const Expression& expression, Frame& frame) {
  using Kind = Expression::Kind;
  const auto part = [&](size_t i) { return evaluate(*expression.parts[i], frame); };
  switch (expression.kind) {
    case Kind::kConstant:
      return expression.value;
    case Kind::kName:
      return name_value(expression, frame);
    case Kind::kList:
    case Kind::kTuple:
      return sequence(expression, frame);
    case Kind::kDict:
      return dict(expression, frame);
    case Kind::kAttribute:
      return attribute(part(0), expression.name, meter_);
    case Kind::kItem: {
      const Value value = part(0);
      return item(value, part(1), meter_);
    }
    case Kind::kSlice:
      return sliced(expression, frame);
    case Kind::kCall:
      return call(expression, frame);
    case Kind::kFilter:
      return filtered(expression, part(0), frame);
    case Kind::kTest: {
      const Value value = part(0);
      return apply_test(expression.name, value, arguments(expression, frame), meter_);
    }
    case Kind::kNot:
      return !truth(part(0));
    case Kind::kNegative:
      return negative(part(0));
    case Kind::kPositive:
      return negative(negative(part(0)));
    case Kind::kAnd: {
      Value value = part(0);
      return truth(value) ? part(1) : value;
    }
    case Kind::kOr: {
      Value value = part(0);
      return truth(value) ? value : part(1);
    }
    case Kind::kConcatenate:
      return concatenated(expression, frame);
    case Kind::kBinary: {
      const Value left = part(0);
      return binary(expression.operators[0], left, part(1), meter_);
    }
    case Kind::kCompare:
      return comparison(expression, frame);
    case Kind::kConditional:
      return conditional(expression, frame);
  }
  return {};
}

Value Interpreter::name_value(const Expression& expression, Frame& frame) {
  if (const Value* found = frame.find(expression.name)) return *found;
  return Value::undefined(fmt::format("'{}' is undefined", expression.name));
}

Value Interpreter::sequence(const Expression& expression, Frame& frame) {
  const bool list = expression.kind == Expression::Kind::kList;
  List result{.items = {}, .kind = list ? List::Kind::kList : List::Kind::kTuple};
  for (const ExpressionPtr& part : expression.parts) {
    result.items.push_back(evaluate(*part, frame));
  }
  return result;
}

Value Interpreter::dict(const Expression& expression, Frame& frame) {
  Dict result;
  for (size_t i = 0; i < expression.parts.size(); i += 2) {
    Value key = evaluate(*expression.parts[i], frame);
    result.set(std::move(key), evaluate(*expression.parts[i + 1], frame), meter_);
  }
  return result;
}

Value Interpreter::sliced(const Expression& expression, Frame& frame) {
  const Value value = evaluate(*expression.parts[0], frame);
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    if (expression.parts[i + 1]) bounds[i] = evaluate(*expression.parts[i + 1], frame);
  }
  return slice(value, bounds[0], bounds[1], bounds[2], meter_);
}

Value Interpreter::comparison(const Expression& expression, Frame& frame) {
  Value left = evaluate(*expression.parts[0], frame);
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    Value right = evaluate(*expression.parts[i + 1], frame);
    if (!compare(expression.operators[i], left, right, meter_)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::concatenated(const Expression& expression, Frame& frame) {
  std::string text;
  for (const ExpressionPtr& part : expression.parts) {
    text += to_text(evaluate(*part, frame), meter_);
  }
  return Value(std::move(text));
}

Value Interpreter::conditional(const Expression& expression, Frame& frame) {
  if (truth(evaluate(*expression.parts[1], frame))) return evaluate(*expression.parts[0], frame);
  if (expression.parts[2]) return evaluate(*expression.parts[2], frame);
  return Value::undefined(
      "the inline if-expression evaluated to false and no else section was defined");
}

Arguments Interpreter::arguments(const Expression& expression, Frame& frame) {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;
  for (size_t i = 1; i < expression.parts.size(); ++i) {
    positional.push_back(evaluate(*expression.parts[i], frame));
  }
  for (const auto& [name, value] : expression.keywords) {
    keywords.emplace_back(name, evaluate(*value, frame));
  }
  return {std::move(positional), std::move(keywords)};
}

Value Interpreter::call(const Expression& expression, Frame& frame, const Value* caller) {
  const Expression& callee = *expression.parts[0];
  Value function;
  if (callee.kind == Expression::Kind::kAttribute) {
    const Value self = evaluate(*callee.parts[0], frame);
    if (has_method(self, callee.name)) {
      return call_method(self, callee.name, arguments(expression, frame), meter_);
    }
    if (auto* const loop = self.is_object() ? dynamic_cast<Loop*>(self.object()) : nullptr) {
      return loop->call_method(callee.name, arguments(expression, frame), meter_);
    }
    function = attribute(self, callee.name, meter_);
  } else {
    function = evaluate(callee, frame);
  }
  check_defined(function);
  auto* const callable =
      function.is_object() ? dynamic_cast<Callable*>(function.object()) : nullptr;
  if (!callable) {
    fail(ErrorCode::kInvalidArgument, "a {} cannot be called", function.type_name());
  }
  Arguments given = arguments(expression, frame);
  if (caller) {
    auto keywords = given.keywords();
    keywords.emplace_back("caller", *caller);
    given = Arguments(given.positional(), std::move(keywords));
  }
  return callable->call(*this, std::move(given));
}

Value Interpreter::filtered(const Expression& expression, const Value& value, Frame& frame) {
  Arguments given = arguments(expression, frame);
  line_ = expression.line;
  return apply_filter(expression.name, value, std::move(given), meter_);
}

Value Interpreter::filtered_block(const Expression& expression, Value text, Frame& frame) {
  if (expression.parts[0]) text = filtered_block(*expression.parts[0], std::move(text), frame);
  return filtered(expression, text, frame);
}

}  // namespace freekv::jinja
