#include "tokenizer/jinja/operations.hpp"

#include <algorithm>
#include <cmath>

#include "core/check.hpp"
#include "tokenizer/jinja/text.hpp"

namespace freekv::jinja {
namespace {

[[noreturn]] void fail_overflow() {
  fail(ErrorCode::kUnsupported, "integers beyond 64 bits are not supported");
}

[[noreturn]] void fail_operands(std::string_view op, const Value& a, const Value& b) {
  check_defined(a);
  check_defined(b);
  fail(ErrorCode::kInvalidArgument, "a {} and a {} cannot be operands of '{}'", a.type_name(),
       b.type_name(), op);
}

std::string_view operator_text(Operator op) {
  switch (op) {
    case Operator::kAdd:
      return "+";
    case Operator::kSubtract:
      return "-";
    case Operator::kMultiply:
      return "*";
    case Operator::kDivide:
      return "/";
    case Operator::kFloorDivide:
      return "//";
    case Operator::kModulo:
      return "%";
    case Operator::kPower:
      return "**";
    default:
      return "in";
  }
}

int64_t integer_power(int64_t base, int64_t exponent, Meter& meter) {
  int64_t result = 1;
  for (int64_t i = 0; i < exponent && result != 0; ++i) {
    meter.charge(1);
    if (__builtin_mul_overflow(result, base, &result)) fail_overflow();
    if (base == 1) break;
    if (base == -1) return exponent % 2 == 0 ? 1 : -1;
  }
  return result;
}

Value integer_arithmetic(Operator op, int64_t a, int64_t b, Meter& meter) {
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case Operator::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Operator::kSubtract:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Operator::kMultiply:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Operator::kPower:
      return integer_power(a, b, meter);
    default: {
      // Towards minus infinity, and the rest has the divisor's sign.
      if (b == -1 && a == INT64_MIN) fail_overflow();
      const int64_t rest = a % b;
      const bool lower = rest != 0 && (rest < 0) != (b < 0);
      result = op == Operator::kModulo ? rest + (lower ? b : 0) : a / b - (lower ? 1 : 0);
    }
  }
  if (overflow) fail_overflow();
  return result;
}

Value float_arithmetic(Operator op, double a, double b) {
  switch (op) {
    case Operator::kAdd:
      return a + b;
    case Operator::kSubtract:
      return a - b;
    case Operator::kMultiply:
      return a * b;
    case Operator::kDivide:
      return a / b;
    case Operator::kPower:
      if ((a == 0 && b < 0) || (a < 0 && b != std::floor(b))) {
        fail(ErrorCode::kInvalidArgument, "{} ** {} has no value", a, b);
      }
      return std::pow(a, b);
    default: {
      double rest = std::fmod(a, b);
      double quotient = (a - rest) / b;
      if (rest != 0 && (b < 0) != (rest < 0)) {
        rest += b;
        quotient -= 1;
      }
      if (op == Operator::kModulo) return rest == 0 ? std::copysign(0.0, b) : rest;
      const double whole = std::floor(quotient);
      return quotient - whole > 0.5 ? whole + 1 : whole;
    }
  }
}

Value arithmetic(Operator op, const Value& a, const Value& b, Meter& meter) {
  const bool divides =
      op == Operator::kDivide || op == Operator::kFloorDivide || op == Operator::kModulo;
  if (divides && b.number() == 0) fail(ErrorCode::kInvalidArgument, "division by zero");
  const bool to_float = a.is_float() || b.is_float() || op == Operator::kDivide ||
                        (op == Operator::kPower && b.integer() < 0);
  return to_float ? float_arithmetic(op, a.number(), b.number())
                  : integer_arithmetic(op, a.integer(), b.integer(), meter);
}

bool is_sequence(const Value& value) {
  return value.is_list() &&
         (value.list().kind == List::Kind::kList || value.list().kind == List::Kind::kTuple);
}

Value repeated(const Value& sequence, int64_t count, Meter& meter) {
  const auto times = static_cast<size_t>(std::max<int64_t>(count, 0));
  const size_t unit =
      sequence.is_text() ? sequence.text().size() : sequence.list().items.size() * sizeof(Value);
  size_t total = 0;
  if (__builtin_mul_overflow(unit, times, &total)) total = SIZE_MAX;
  meter.charge(total);
  if (unit == 0) return sequence;
  if (sequence.is_text()) {
    std::string text;
    text.reserve(total);
    for (size_t i = 0; i < times; ++i) text += sequence.text();
    return Value(std::move(text));
  }
  List list{.items = {}, .kind = sequence.list().kind};
  for (size_t i = 0; i < times; ++i) {
    list.items.insert(list.items.end(), sequence.list().items.begin(), sequence.list().items.end());
  }
  return list;
}

bool contains(const Value& container, const Value& value, Meter& meter) {
  if (container.is_text()) {
    check_defined(value);
    meter.charge(container.text().size());
    return container.text().find(to_string(value, "what is searched in a text")) !=
           std::string::npos;
  }
  if (container.is_dict()) return container.dict().find(value, meter) != nullptr;
  for (const Value& known : iterate(container, meter)) {
    if (equal(known, value, meter)) return true;
  }
  return false;
}

// Begin and end of a slice as Python bounds them: negative ones count from the end.
struct SliceRange {
  int64_t begin, end, step;
};

SliceRange slice_range(int64_t size, const Value& begin, const Value& end, const Value& step) {
  const int64_t by = step.is_none() ? 1 : step.integer();
  if (by == 0) fail(ErrorCode::kInvalidArgument, "the step of a slice is 0");
  const int64_t low = by < 0 ? -1 : 0, high = by < 0 ? size - 1 : size;
  const auto bound = [&](const Value& value, int64_t otherwise) {
    if (value.is_none()) return otherwise;
    int64_t at = value.integer();
    if (at < 0) at = at < -size ? low : at + size;
    return std::clamp(at, low, std::max(low, high));
  };
  return {bound(begin, by < 0 ? high : low), bound(end, by < 0 ? low : high), by};
}

}  // namespace

Value metered_text(std::string text, Meter& meter) {
  meter.charge(text.size() + sizeof(Value));
  return Value(std::move(text));
}

Value binary(Operator op, const Value& a, const Value& b, Meter& meter) {
  if (a.is_number() && b.is_number()) return arithmetic(op, a, b, meter);
  if (op == Operator::kAdd && a.is_text() && b.is_text()) {
    meter.charge(a.text().size() + b.text().size());
    return Value(a.text() + b.text());
  }
  if (op == Operator::kAdd && is_sequence(a) && is_sequence(b) && a.list().kind == b.list().kind) {
    List sum{.items = a.list().items, .kind = a.list().kind};
    sum.items.insert(sum.items.end(), b.list().items.begin(), b.list().items.end());
    meter.charge(sum.items.size() * sizeof(Value));
    return sum;
  }
  if (op == Operator::kMultiply) {
    if ((a.is_text() || is_sequence(a)) && b.is_integer()) return repeated(a, b.integer(), meter);
    if ((b.is_text() || is_sequence(b)) && a.is_integer()) return repeated(b, a.integer(), meter);
  }
  if (op == Operator::kModulo && a.is_text()) {
    fail(ErrorCode::kUnsupported, "formatting text with '%' is not supported");
  }
  fail_operands(operator_text(op), a, b);
}

bool compare(Operator op, const Value& a, const Value& b, Meter& meter) {
  switch (op) {
    case Operator::kEqual:
      return equal(a, b, meter);
    case Operator::kNotEqual:
      return !equal(a, b, meter);
    case Operator::kLess:
      return less(a, b, meter);
    case Operator::kGreater:
      return less(b, a, meter);
    case Operator::kLessEqual:
      return less(a, b, meter) || equal(a, b, meter);
    case Operator::kGreaterEqual:
      return less(b, a, meter) || equal(a, b, meter);
    case Operator::kIn:
      return contains(b, a, meter);
    default:
      return !contains(b, a, meter);
  }
}

Value negative(const Value& value) {
  if (value.is_float()) return -value.number();
  check_defined(value);
  if (!value.is_integer()) {
    fail(ErrorCode::kInvalidArgument, "a {} has no sign", value.type_name());
  }
  if (value.integer() == INT64_MIN) fail_overflow();
  return -value.integer();
}

namespace {

// A method that is looked at and not called.
class Method final : public Object {
 public:
  std::string_view type_name() const override { return "method"; }
};

Value missing(const Value& value, std::string_view what) {
  const std::string type = value.is_none() ? "None" : fmt::format("{} object", value.type_name());
  return Value::undefined(fmt::format("'{}' has no {}", type, what));
}

}  // namespace

Value attribute(const Value& value, std::string_view name, Meter&) {
  check_defined(value);
  if (value.is_object()) return value.object()->attribute(name);
  if (has_method(value, name)) {
    static Method method;  // without state, so that all may be the same
    return Value(static_cast<Object*>(&method));
  }
  if (value.is_dict()) {
    if (const Value* found = value.dict().find(name)) return *found;
  }
  return missing(value, fmt::format("attribute '{}'", name));
}

Value item(const Value& value, const Value& key, Meter& meter) {
  check_defined(value);
  if (value.is_dict()) {
    if (const Value* found = value.dict().find(key, meter)) return *found;
  }
  if (key.is_text()) return attribute(value, key.text(), meter);
  if (key.is_integer() && (value.is_text() || is_sequence(value))) {
    if (value.is_text()) meter.charge(value.text().size());
    const int64_t size = length(value);
    const int64_t at = key.integer() < 0 ? key.integer() + size : key.integer();
    if (at >= 0 && at < size) {
      if (value.is_list()) return value.list().items[static_cast<size_t>(at)];
      const auto offsets = character_offsets(value.text());
      const auto i = static_cast<size_t>(at);
      return metered_text(value.text().substr(offsets[i], offsets[i + 1] - offsets[i]), meter);
    }
  }
  return missing(value, "such element");
}

Value slice(const Value& value, const Value& begin, const Value& end, const Value& step,
            Meter& meter) {
  check_defined(value);
  for (const Value* bound : {&begin, &end, &step}) {
    if (!bound->is_none()) to_integer(*bound, "a bound of a slice");
  }
  if (!value.is_text() && !is_sequence(value)) {
    fail(ErrorCode::kInvalidArgument, "a {} has no slices", value.type_name());
  }
  if (value.is_text()) meter.charge(value.text().size());
  const SliceRange range = slice_range(length(value), begin, end, step);
  const auto each = [&](const auto& use) {
    for (int64_t i = range.begin; range.step > 0 ? i < range.end : i > range.end;) {
      use(static_cast<size_t>(i));
      if (__builtin_add_overflow(i, range.step, &i)) break;
    }
  };
  if (value.is_text()) {
    const auto offsets = character_offsets(value.text());
    std::string text;
    each([&](size_t i) { text.append(value.text(), offsets[i], offsets[i + 1] - offsets[i]); });
    return metered_text(std::move(text), meter);
  }
  List list{.items = {}, .kind = value.list().kind};
  each([&](size_t i) { list.items.push_back(value.list().items[i]); });
  meter.charge(list.items.size() * sizeof(Value));
  return list;
}

std::vector<Value> iterate(const Value& value, Meter& meter) {
  if (value.is_undefined()) return {};
  std::vector<Value> items;
  if (value.is_list()) {
    items = value.list().items;
  } else if (value.is_dict()) {
    for (const auto& [key, unused] : value.dict().items) items.push_back(key);
  } else if (value.is_text()) {
    meter.charge(value.text().size() * sizeof(Value));
    const auto offsets = character_offsets(value.text());
    for (size_t i = 0; i + 1 < offsets.size(); ++i) {
      items.emplace_back(value.text().substr(offsets[i], offsets[i + 1] - offsets[i]));
    }
  } else {
    fail(ErrorCode::kInvalidArgument, "a {} is not iterable", value.type_name());
  }
  meter.charge(items.size() * sizeof(Value));
  return items;
}

int64_t length(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_text()) return character_count(value.text());
  if (value.is_dict()) return static_cast<int64_t>(value.dict().items.size());
  if (!value.is_list() || value.list().kind == List::Kind::kGenerator) {
    fail(ErrorCode::kInvalidArgument, "a {} has no length", value.type_name());
  }
  return static_cast<int64_t>(value.list().items.size());
}

int64_t to_integer(const Value& value, std::string_view what) {
  check_defined(value);
  if (!value.is_integer()) {
    fail(ErrorCode::kInvalidArgument, "{} is a {}, must be an integer", what, value.type_name());
  }
  return value.integer();
}

const std::string& to_string(const Value& value, std::string_view what) {
  check_defined(value);
  if (!value.is_text()) {
    fail(ErrorCode::kInvalidArgument, "{} is a {}, must be a text", what, value.type_name());
  }
  return value.text();
}

const Value* Arguments::get(size_t index, std::string_view name) {
  const Value* found = nullptr;
  if (index < positional_.size()) {
    found = &positional_[index];
    used_.push_back(index);
  }
  for (size_t i = 0; i < keywords_.size(); ++i) {
    if (keywords_[i].first != name) continue;
    if (found) fail(ErrorCode::kInvalidArgument, "the argument '{}' is given twice", name);
    found = &keywords_[i].second;
    used_.push_back(positional_.size() + i);
  }
  return found;
}

Value Arguments::get_or(size_t index, std::string_view name, Value otherwise) {
  const Value* found = get(index, name);
  return found ? *found : std::move(otherwise);
}

const Value& Arguments::need(size_t index, std::string_view name) {
  const Value* found = get(index, name);
  if (!found) fail(ErrorCode::kInvalidArgument, "the argument '{}' is missing", name);
  return *found;
}

Arguments Arguments::rest(size_t index) {
  Arguments result;
  for (size_t i = 0; i < positional_.size() + keywords_.size(); ++i) {
    if (i >= index || i >= positional_.size()) used_.push_back(i);
  }
  if (index < positional_.size()) {
    result.positional_.assign(positional_.begin() + static_cast<ptrdiff_t>(index),
                              positional_.end());
  }
  result.keywords_ = keywords_;
  return result;
}

void Arguments::check_all_used(std::string_view function) const {
  for (size_t i = 0; i < positional_.size() + keywords_.size(); ++i) {
    if (std::find(used_.begin(), used_.end(), i) != used_.end()) continue;
    if (i < positional_.size()) {
      fail(ErrorCode::kInvalidArgument, "'{}' takes fewer than {} arguments", function,
           positional_.size());
    }
    fail(ErrorCode::kInvalidArgument, "'{}' takes no argument named '{}'", function,
         keywords_[i - positional_.size()].first);
  }
}

}  // namespace freekv::jinja
