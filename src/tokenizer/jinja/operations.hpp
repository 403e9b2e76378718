// Operators, attributes, items, methods, filters and tests: what expressions do with values.
//
// All throw Error(kInvalidArgument) where Python or jinja2 would raise, and Error(kUnsupported) for
// what exists there and not here.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/jinja/syntax.hpp"
#include "tokenizer/jinja/value.hpp"

namespace freekv::jinja {

/// What a call is given. Each argument is asked for once, by position and name; what nobody asked
/// for is an error of the caller's.
class Arguments {
 public:
  Arguments() = default;
  Arguments(std::vector<Value> positional, std::vector<std::pair<std::string, Value>> keywords)
      : positional_(std::move(positional)), keywords_(std::move(keywords)) {}

  /// Null when it was not given.
  const Value* get(size_t index, std::string_view name);
  /// As get(), or the default.
  Value get_or(size_t index, std::string_view name, Value otherwise);
  /// Throws when it was not given.
  const Value& need(size_t index, std::string_view name);
  /// The positional argument at `index` and all after it, and all keywords, as arguments of their
  /// own.
  Arguments rest(size_t index);
  /// Throws when arguments are left that nobody asked for.
  void check_all_used(std::string_view function) const;

  const std::vector<Value>& positional() const { return positional_; }
  const std::vector<std::pair<std::string, Value>>& keywords() const { return keywords_; }

 private:
  std::vector<Value> positional_;
  std::vector<std::pair<std::string, Value>> keywords_;
  std::vector<size_t> used_;  // positions, and keywords counted on from them
};

/// A text that the meter was charged for.
Value metered_text(std::string text, Meter& meter);

Value binary(Operator op, const Value& a, const Value& b, Meter& meter);
bool compare(Operator op, const Value& a, const Value& b, Meter& meter);
Value negative(const Value& value);

/// value.name, as jinja2 looks it up: a method before an item of a dict.
Value attribute(const Value& value, std::string_view name, Meter& meter);
/// value[key]: an item, else the attribute of that name.
Value item(const Value& value, const Value& key, Meter& meter);
/// value[begin:end:step]; none stands for what was left out.
Value slice(const Value& value, const Value& begin, const Value& end, const Value& step,
            Meter& meter);
/// What iterating gives: items, keys or characters.
std::vector<Value> iterate(const Value& value, Meter& meter);
int64_t length(const Value& value);
/// Throws unless it is an integer.
int64_t to_integer(const Value& value, std::string_view what);
/// Throws unless it is text.
const std::string& to_string(const Value& value, std::string_view what);

/// str.replace(), at most `limit` times unless it is negative.
Value replace_text(const std::string& text, const std::string& from, const std::string& to,
                   int64_t limit, Meter& meter);

/// Whether Python's type has a method of that name which does not change it.
bool has_method(const Value& value, std::string_view name);
Value call_method(const Value& value, std::string_view name, Arguments arguments, Meter& meter);

Value apply_filter(std::string_view name, const Value& value, Arguments arguments, Meter& meter);
bool apply_test(std::string_view name, const Value& value, Arguments arguments, Meter& meter);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent = std::nullopt;  // of one level
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
/// json.dumps().
std::string to_json(const Value& value, const JsonStyle& style, Meter& meter);

}  // namespace freekv::jinja
