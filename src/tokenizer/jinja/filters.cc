// The filters of jinja2 that chat templates use.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "core/check.hpp"
#include "io/quote.hpp"
#include "tokenizer/jinja/operations.hpp"
#include "tokenizer/jinja/text.hpp"

namespace freekv::jinja {
namespace {

Value generator(std::vector<Value> items) {
  return List{.items = std::move(items), .kind = List::Kind::kGenerator};
}

// The attribute "a.b.0" of a value; the value itself when none is asked for.
Value path(const Value& value, const Value& attribute, Meter& meter) {
  if (attribute.is_none()) return value;
  if (!attribute.is_text()) return item(value, attribute, meter);
  Value found = value;
  for (std::string& part : split_at(attribute.text(), ".", -1, false)) {
    int64_t index = 0;
    const char* end = part.data() + part.size();
    const bool number =
        std::from_chars(part.data(), end, index).ptr == end && !part.empty() && part[0] != '-';
    found = item(found, number ? Value(index) : Value(std::move(part)), meter);
  }
  return found;
}

// What values are compared by when case does not matter.
Value sort_key(Value value, bool case_sensitive) {
  if (case_sensitive || !value.is_text()) return value;
  return Value(in_case(value.text(), Case::kLower));
}

std::vector<Value> sorted(std::vector<Value> items, const std::vector<Value>& keys, bool reverse,
                          Meter& meter) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  // Equal items keep their order in both directions.
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return reverse ? less(keys[b], keys[a], meter) : less(keys[a], keys[b], meter);
  });
  std::vector<Value> result;
  for (const size_t i : order) result.push_back(items[i]);
  return result;
}

Value sort(const Value& value, Arguments& arguments, Meter& meter) {
  const bool reverse = truth(arguments.get_or(0, "reverse", false));
  const bool case_sensitive = truth(arguments.get_or(1, "case_sensitive", false));
  const Value attribute = arguments.get_or(2, "attribute", Value());
  if (attribute.is_text() && attribute.text().find(',') != std::string::npos) {
    fail(ErrorCode::kUnsupported, "sorting by several attributes is not supported");
  }
  std::vector<Value> items = iterate(value, meter), keys;
  for (const Value& entry : items) {
    keys.push_back(sort_key(path(entry, attribute, meter), case_sensitive));
  }
  return List{.items = sorted(std::move(items), keys, reverse, meter)};
}

Value dictsort(const Value& value, Arguments& arguments, Meter& meter) {
  const bool case_sensitive = truth(arguments.get_or(0, "case_sensitive", false));
  const Value by = arguments.get_or(1, "by", "key");
  const bool reverse = truth(arguments.get_or(2, "reverse", false));
  if (!value.is_dict()) fail(ErrorCode::kInvalidArgument, "dictsort needs a dict");
  if (to_string(by, "by") != "key" && by.text() != "value") {
    fail(ErrorCode::kInvalidArgument, "dictsort by {}, must be 'key' or 'value'",
         quoted(by.text()));
  }
  std::vector<Value> items = call_method(value, "items", {}, meter).list().items, keys;
  for (const Value& entry : items) {
    keys.push_back(sort_key(entry.list().items[by.text() == "key" ? 0 : 1], case_sensitive));
  }
  return List{.items = sorted(std::move(items), keys, reverse, meter)};
}

Value unique(const Value& value, Arguments& arguments, Meter& meter) {
  const bool case_sensitive = truth(arguments.get_or(0, "case_sensitive", false));
  const Value attribute = arguments.get_or(1, "attribute", Value());
  std::vector<Value> result, keys;
  for (const Value& entry : iterate(value, meter)) {
    Value key = sort_key(path(entry, attribute, meter), case_sensitive);
    const auto same = [&](const Value& known) { return equal(known, key, meter); };
    if (std::any_of(keys.begin(), keys.end(), same)) continue;
    keys.push_back(std::move(key));
    result.push_back(entry);
  }
  return generator(std::move(result));
}

Value extreme(const Value& value, bool largest, Arguments& arguments, Meter& meter) {
  const bool case_sensitive = truth(arguments.get_or(0, "case_sensitive", false));
  const Value attribute = arguments.get_or(1, "attribute", Value());
  const std::vector<Value> items = iterate(value, meter);
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  size_t best = 0;
  Value best_key = sort_key(path(items[0], attribute, meter), case_sensitive);
  for (size_t i = 1; i < items.size(); ++i) {
    Value key = sort_key(path(items[i], attribute, meter), case_sensitive);
    if (!(largest ? less(best_key, key, meter) : less(key, best_key, meter))) continue;
    best = i;
    best_key = std::move(key);
  }
  return items[best];
}

Value map(const Value& value, Arguments& arguments, Meter& meter) {
  std::vector<Value> result;
  const bool by_attribute = arguments.positional().empty();
  const Value attribute =
      by_attribute ? arguments.need(0, "attribute") : arguments.need(0, "filter");
  const Value otherwise = by_attribute ? arguments.get_or(1, "default", Value()) : Value();
  Arguments rest = by_attribute ? Arguments() : arguments.rest(1);
  if (!truth(value)) return generator({});
  for (const Value& entry : iterate(value, meter)) {
    if (by_attribute) {
      const Value found = path(entry, attribute, meter);
      result.push_back(found.is_undefined() && !otherwise.is_none() ? otherwise : found);
    } else {
      result.push_back(apply_filter(to_string(attribute, "filter"), entry, rest, meter));
    }
  }
  return generator(std::move(result));
}

// select, reject, selectattr and rejectattr.
Value choose(const Value& value, bool wanted, bool by_attribute, Arguments& arguments,
             Meter& meter) {
  const size_t first = by_attribute ? 1 : 0;
  const Value attribute = by_attribute ? arguments.need(0, "attribute") : Value();
  const Value* test = arguments.get(first, "test");
  const Arguments rest = test ? arguments.rest(first + 1) : Arguments();
  if (!truth(value)) return generator({});
  std::vector<Value> result;
  for (const Value& entry : iterate(value, meter)) {
    const Value subject = path(entry, attribute, meter);
    const bool holds =
        test ? apply_test(to_string(*test, "test"), subject, rest, meter) : truth(subject);
    if (holds == wanted) result.push_back(entry);
  }
  return generator(std::move(result));
}

Value join(const Value& value, Arguments& arguments, Meter& meter) {
  const std::string separator = to_text(arguments.get_or(0, "d", ""), meter);
  const Value attribute = arguments.get_or(1, "attribute", Value());
  std::string text;
  bool first = true;
  for (const Value& entry : iterate(value, meter)) {
    if (!first) text += separator;
    first = false;
    text += to_text(path(entry, attribute, meter), meter);
    meter.charge(separator.size());
  }
  return Value(std::move(text));
}

Value indent(const Value& value, Arguments& arguments, Meter& meter) {
  const Value width = arguments.get_or(0, "width", int64_t{4});
  const bool first = truth(arguments.get_or(1, "first", false));
  const bool blank = truth(arguments.get_or(2, "blank", false));
  std::string step;
  if (width.is_text()) {
    step = width.text();
  } else {
    const int64_t spaces = std::max<int64_t>(0, to_integer(width, "width"));
    meter.charge(static_cast<size_t>(spaces));
    step.assign(static_cast<size_t>(spaces), ' ');
  }
  std::string text;
  if (first) text = step;
  std::string source = to_string(value, "what is indented");
  source += '\n';
  const auto lines = split_lines(source, false);
  for (size_t i = 0; i < lines.size(); ++i) {
    meter.charge(step.size() + lines[i].size() + 1);
    if (i > 0) text += '\n';
    if (i > 0 && (blank || !lines[i].empty())) text += step;
    text += lines[i];
  }
  return Value(std::move(text));
}

std::optional<double> parse_float(std::string_view text) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto done = std::from_chars(text.data(), end, number);
  if (text.empty() || done.ec != std::errc() || done.ptr != end) return std::nullopt;
  return number;
}

std::string_view number_text(std::string_view text) {
  text = stripped(text, nullptr, true, true);
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  return text;
}

Value to_int(const Value& value, Arguments& arguments) {
  const Value otherwise = arguments.get_or(0, "default", int64_t{0});
  if (to_integer(arguments.get_or(1, "base", int64_t{10}), "base") != 10) {
    fail(ErrorCode::kUnsupported, "the filter int with another base than 10 is not supported");
  }
  check_defined(value);
  if (value.is_integer()) return value.integer();
  std::optional<double> number;
  if (value.is_text()) {
    const std::string_view text = number_text(value.text());
    int64_t whole = 0;
    const char* end = text.data() + text.size();
    const auto done = std::from_chars(text.data(), end, whole);
    if (!text.empty() && done.ec == std::errc() && done.ptr == end) return whole;
    number = parse_float(text);
  } else if (value.is_float()) {
    number = value.number();
  }
  if (!number || !std::isfinite(*number)) return otherwise;
  if (std::abs(*number) >= 0x1p63) {
    fail(ErrorCode::kUnsupported, "integers beyond 64 bits are not supported");
  }
  return static_cast<int64_t>(*number);
}

Value to_float(const Value& value, Arguments& arguments) {
  const Value otherwise = arguments.get_or(0, "default", 0.0);
  check_defined(value);
  if (value.is_number()) return value.number();
  const auto number =
      value.is_text() ? parse_float(number_text(value.text())) : std::optional<double>();
  return number ? Value(*number) : otherwise;
}

Value round(const Value& value, Arguments& arguments) {
  const int64_t precision = to_integer(arguments.get_or(0, "precision", int64_t{0}), "precision");
  const Value method = arguments.get_or(1, "method", "common");
  check_defined(value);
  if (!value.is_number()) fail(ErrorCode::kInvalidArgument, "round needs a number");
  if (precision < 0 || precision > 20) {
    fail(ErrorCode::kUnsupported, "round to {} digits is not supported", precision);
  }
  if (to_string(method, "method") == "common") {
    if (value.is_integer()) return value.integer();
    // Through the decimal form, so that ties are judged on the exact value as Python does.
    return parse_float(fmt::format("{:.{}f}", value.number(), precision)).value_or(value.number());
  }
  if (method.text() != "ceil" && method.text() != "floor") {
    fail(ErrorCode::kInvalidArgument, "round by {}, must be 'common', 'ceil' or 'floor'",
         quoted(method.text()));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = value.number() * scale;
  return (method.text() == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale;
}

Value sum(const Value& value, Arguments& arguments, Meter& meter) {
  const Value attribute = arguments.get_or(0, "attribute", Value());
  Value total = arguments.get_or(1, "start", int64_t{0});
  for (const Value& entry : iterate(value, meter)) {
    total = binary(Operator::kAdd, total, path(entry, attribute, meter), meter);
  }
  return total;
}

Value reverse(const Value& value, Meter& meter) {
  if (value.is_text()) return slice(value, Value(), Value(), int64_t{-1}, meter);
  std::vector<Value> items = iterate(value, meter);
  std::reverse(items.begin(), items.end());
  return generator(std::move(items));
}

Value last(const Value& value, Meter& meter) {
  if (value.is_list() && value.list().kind == List::Kind::kGenerator) {
    fail(ErrorCode::kInvalidArgument, "a generator has no last item");
  }
  const std::vector<Value> items = iterate(value, meter);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value tojson(const Value& value, Arguments& arguments, Meter& meter) {
  JsonStyle style;
  style.ensure_ascii = truth(arguments.get_or(0, "ensure_ascii", false));
  const Value width = arguments.get_or(1, "indent", Value());
  const Value separators = arguments.get_or(2, "separators", Value());
  style.sort_keys = truth(arguments.get_or(3, "sort_keys", false));
  if (!width.is_none()) {
    style.item_separator.resize(1);  // the blank after a comma goes
    if (width.is_text()) {
      style.indent = width.text();
    } else {
      const int64_t spaces = std::max<int64_t>(0, to_integer(width, "indent"));
      meter.charge(static_cast<size_t>(spaces));
      style.indent = std::string(static_cast<size_t>(spaces), ' ');
    }
  }
  if (!separators.is_none()) {
    const std::vector<Value> both = iterate(separators, meter);
    if (both.size() != 2) fail(ErrorCode::kInvalidArgument, "separators must be two texts");
    style.item_separator = to_string(both[0], "separators");
    style.key_separator = to_string(both[1], "separators");
  }
  return Value(to_json(value, style, meter));
}

Value default_value(const Value& value, Arguments& arguments) {
  const Value otherwise = arguments.get_or(0, "default_value", "");
  const bool falsy = truth(arguments.get_or(1, "boolean", false));
  return value.is_undefined() || (falsy && !truth(value)) ? otherwise : value;
}

Value text_filter(std::string_view name, const Value& value, Arguments& arguments, Meter& meter) {
  const std::string text = to_text(value, meter);
  if (name == "trim") {
    Arguments chars({arguments.get_or(0, "chars", Value())}, {});
    return call_method(Value(text), "strip", std::move(chars), meter);
  }
  if (name == "replace") {
    const std::string from = to_text(arguments.need(0, "old"), meter);
    const std::string to = to_text(arguments.need(1, "new"), meter);
    const Value count = arguments.get_or(2, "count", Value());
    return replace_text(text, from, to, count.is_none() ? -1 : to_integer(count, "count"), meter);
  }
  if (name == "upper") return Value(in_case(text, Case::kUpper));
  if (name == "lower") return Value(in_case(text, Case::kLower));
  if (name == "title") return Value(in_case(text, Case::kTitle));
  if (name == "capitalize") return Value(in_case(text, Case::kCapital));
  return Value(text);  // string
}

Value filtered(std::string_view name, const Value& value, Arguments& arguments, Meter& meter) {
  constexpr std::array<std::string_view, 7> kTextFilters = {"trim",  "string", "replace",   "upper",
                                                            "lower", "title",  "capitalize"};
  if (std::find(kTextFilters.begin(), kTextFilters.end(), name) != kTextFilters.end()) {
    return text_filter(name, value, arguments, meter);
  }
  if (name == "tojson") return tojson(value, arguments, meter);
  if (name == "length" || name == "count") return length(value);
  if (name == "join") return join(value, arguments, meter);
  if (name == "default" || name == "d") return default_value(value, arguments);
  if (name == "list") return List{.items = iterate(value, meter)};
  if (name == "items") {
    if (value.is_undefined()) return generator({});
    if (!value.is_dict()) fail(ErrorCode::kInvalidArgument, "items needs a dict");
    return generator(call_method(value, "items", {}, meter).list().items);
  }
  if (name == "map") return map(value, arguments, meter);
  if (name == "select") return choose(value, true, false, arguments, meter);
  if (name == "reject") return choose(value, false, false, arguments, meter);
  if (name == "selectattr") return choose(value, true, true, arguments, meter);
  if (name == "rejectattr") return choose(value, false, true, arguments, meter);
  if (name == "first") {
    const std::vector<Value> items = iterate(value, meter);
    return items.empty() ? Value::undefined("No first item, sequence was empty.") : items[0];
  }
  if (name == "last") return last(value, meter);
  if (name == "sort") return sort(value, arguments, meter);
  if (name == "dictsort") return dictsort(value, arguments, meter);
  if (name == "unique") return unique(value, arguments, meter);
  if (name == "min" || name == "max") return extreme(value, name == "max", arguments, meter);
  if (name == "reverse") return reverse(value, meter);
  if (name == "indent") return indent(value, arguments, meter);
  if (name == "int") return to_int(value, arguments);
  if (name == "float") return to_float(value, arguments);
  if (name == "round") return round(value, arguments);
  if (name == "sum") return sum(value, arguments, meter);
  if (name == "abs") {
    if (value.is_float()) return std::abs(value.number());
    const Value negated = negative(value);
    return negated.integer() < 0 ? Value(value.integer()) : negated;
  }
  fail(ErrorCode::kUnsupported, "the filter {} is not supported", quoted(name));
}

}  // namespace

Value apply_filter(std::string_view name, const Value& value, Arguments arguments, Meter& meter) {
  meter.charge(sizeof(Value));
  Value result = filtered(name, value, arguments, meter);
  arguments.check_all_used(name);
  return result;
}

}  // namespace freekv::jinja
