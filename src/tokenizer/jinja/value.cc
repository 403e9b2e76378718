#include "tokenizer/jinja/value.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.hpp"
#include "tokenizer/jinja/text.hpp"

namespace freekv::jinja {
namespace {

int nested_depth(const Value& value, int depth) {
  if (value.is_object()) {
    fail(ErrorCode::kUnsupported, "a {} inside a list or dict", value.object()->type_name());
  }
  depth = std::max(depth, value.depth() + 1);
  if (depth > kMaxValueDepth) {
    fail(ErrorCode::kUnsupported, "lists and dicts nested deeper than {}", kMaxValueDepth);
  }
  return depth;
}

// Holds every integer and every double of 64 bits as it is, on the processors we build for.
long double exact_number(const Value& value) {
  static_assert(std::numeric_limits<long double>::digits >= 64);
  return value.is_float() ? static_cast<long double>(value.number())
                          : static_cast<long double>(value.integer());
}

bool equal_items(const List& a, const List& b, Meter& meter) {
  return a.kind == b.kind &&
         std::equal(a.items.begin(), a.items.end(), b.items.begin(), b.items.end(),
                    [&](const Value& x, const Value& y) { return equal(x, y, meter); });
}

bool equal_items(const Dict& a, const Dict& b, Meter& meter) {
  return a.items.size() == b.items.size() &&
         std::all_of(a.items.begin(), a.items.end(), [&](const auto& item) {
           const Value* other = b.find(item.first, meter);
           return other && equal(item.second, *other, meter);
         });
}

// The brackets of a printed list.
std::string list_repr(const List& list, Meter& meter) {
  if (list.kind == List::Kind::kGenerator || list.kind == List::Kind::kView) {
    // Python prints an address or a view's type here, which no template can mean.
    fail(ErrorCode::kUnsupported, "printing a lazy sequence; apply the filter list first");
  }
  const bool tuple = list.kind == List::Kind::kTuple;
  std::string text(tuple ? "(" : "[");
  for (const Value& item : list.items) {
    if (text.size() > 1) text += ", ";
    text += to_repr(item, meter);
  }
  if (tuple && list.items.size() == 1) text += ',';
  text += tuple ? ')' : ']';
  return text;
}

std::string dict_repr(const Dict& dict, Meter& meter) {
  std::string text(1, '{');
  for (const auto& [key, item] : dict.items) {
    if (text.size() > 1) text += ", ";
    text += to_repr(key, meter) + ": " + to_repr(item, meter);
  }
  return text += '}';
}

std::string repr(const Value& value, Meter& meter) {
  if (value.is_none()) return "None";
  if (value.is_undefined()) return "Undefined";
  if (value.is_bool()) return value.boolean() ? "True" : "False";
  if (value.is_integer()) return fmt::format("{}", value.integer());
  if (value.is_float()) return float_text(value.number());
  if (value.is_text()) return text_repr(value.text());
  if (value.is_list()) return list_repr(value.list(), meter);
  if (value.is_dict()) return dict_repr(value.dict(), meter);
  fail(ErrorCode::kUnsupported, "printing a {}", value.object()->type_name());
}

}  // namespace

void Meter::charge(size_t units) {
  if (units > left_) {
    fail(ErrorCode::kOutOfMemory, "the template does more than its limit of {} allows", limit_);
  }
  left_ -= units;
}

Value Object::attribute(std::string_view name) const {
  return Value::undefined(fmt::format("a {} has no attribute '{}'", type_name(), name));
}

Value::Value(List list) {
  list.depth = 1;
  for (const Value& item : list.items) list.depth = nested_depth(item, list.depth);
  data_ = std::make_shared<const List>(std::move(list));
}

Value::Value(Dict dict) {
  dict.depth = 1;
  for (const auto& [key, value] : dict.items) {
    dict.depth = nested_depth(value, nested_depth(key, dict.depth));
  }
  data_ = std::make_shared<const Dict>(std::move(dict));
}

int Value::depth() const {
  if (is_list()) return list().depth;
  if (is_dict()) return dict().depth;
  return 0;
}

std::string_view Value::type_name() const {
  if (is_none()) return "NoneType";
  if (is_undefined()) return "Undefined";
  if (is_bool()) return "bool";
  if (is_float()) return "float";
  if (is_text()) return "str";
  if (is_dict()) return "dict";
  if (is_object()) return object()->type_name();
  if (!is_list()) return "int";
  switch (list().kind) {
    case List::Kind::kList:
      return "list";
    case List::Kind::kTuple:
      return "tuple";
    case List::Kind::kView:
      return "dict view";
    case List::Kind::kGenerator:
      return "generator";
  }
  return "?";
}

const Value* Dict::find(const Value& key, Meter& meter) const {
  for (const auto& [known, value] : items) {
    meter.charge(1);
    if (equal(known, key, meter)) return &value;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [known, value] : items) {
    if (known.is_text() && known.text() == key) return &value;
  }
  return nullptr;
}

void Dict::set(Value key, Value value, Meter& meter) {
  if ((key.is_list() && key.list().kind != List::Kind::kTuple) || key.is_dict()) {
    fail(ErrorCode::kInvalidArgument, "a {} cannot be the key of a dict", key.type_name());
  }
  meter.charge(sizeof(Value) * 2);
  if (const Value* known = find(key, meter)) {
    *const_cast<Value*>(known) = std::move(value);
  } else {
    items.emplace_back(std::move(key), std::move(value));
  }
}

bool truth(const Value& value) {
  if (value.is_none() || value.is_undefined()) return false;
  if (value.is_integer()) return value.integer() != 0;
  if (value.is_float()) return value.number() != 0;
  if (value.is_text()) return !value.text().empty();
  if (value.is_dict()) return !value.dict().items.empty();
  if (value.is_list()) {
    return value.list().kind == List::Kind::kGenerator || !value.list().items.empty();
  }
  return true;
}

bool equal(const Value& a, const Value& b, Meter& meter) {
  meter.charge(1);
  if (a.is_number() && b.is_number()) {
    return exact_number(a) == exact_number(b);
  }
  if (a.is_text() && b.is_text()) {
    meter.charge(std::min(a.text().size(), b.text().size()) / 16);
    return a.text() == b.text();
  }
  if (a.is_list() && b.is_list()) return equal_items(a.list(), b.list(), meter);
  if (a.is_dict() && b.is_dict()) return equal_items(a.dict(), b.dict(), meter);
  if (a.is_object() && b.is_object()) return a.object() == b.object();
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

bool less(const Value& a, const Value& b, Meter& meter) {
  meter.charge(1);
  check_defined(a);
  check_defined(b);
  if (a.is_number() && b.is_number()) {
    return exact_number(a) < exact_number(b);
  }
  // The order of UTF-8 bytes is that of code points.
  if (a.is_text() && b.is_text()) return a.text() < b.text();
  if (a.is_list() && b.is_list() && a.list().kind == b.list().kind) {
    const auto &x = a.list().items, &y = b.list().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(x[i], y[i], meter)) return less(x[i], y[i], meter);
    }
    return x.size() < y.size();
  }
  fail(ErrorCode::kInvalidArgument, "a {} and a {} have no order", a.type_name(), b.type_name());
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string to_text(const Value& value, Meter& meter) {
  if (value.is_undefined()) return "";
  if (!value.is_text()) return to_repr(value, meter);
  meter.charge(value.text().size());
  return value.text();
}

std::string to_repr(const Value& value, Meter& meter) {
  std::string text = repr(value, meter);
  meter.charge(text.size() + 1);
  return text;
}

void check_defined(const Value& value) {
  if (value.is_undefined()) {
    fail(ErrorCode::kInvalidArgument, "{}", value.undefined_message());
  }
}

}  // namespace freekv::jinja
