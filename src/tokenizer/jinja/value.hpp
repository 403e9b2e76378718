// Values of the template language, with Python's meaning of truth, equality, order and text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "freekv/error.hpp"

namespace freekv::jinja {

/// Templates are untrusted: everything they do is paid for here, about one unit per byte written or
/// looked at, so that neither time nor memory can run away. Throws Error(kOutOfMemory).
class Meter {
 public:
  explicit Meter(size_t limit) : left_(limit), limit_(limit) {}
  void charge(size_t units);

 private:
  size_t left_;
  size_t limit_;
};

/// Deepest nesting of lists and dicts: bounds every recursion over a value.
inline constexpr int kMaxValueDepth = 64;

struct List;
struct Dict;
class Value;

/// A thing with identity: a namespace, a macro, a loop, a function. Owned by the rendering; lives
/// in variables only, never in lists, dicts or namespaces, so that none outlives what it refers to.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string_view type_name() const = 0;  // for messages
  /// Undefined when there is none.
  virtual Value attribute(std::string_view name) const;
};

/// A missing variable or attribute. It prints as nothing; most other uses throw its message.
struct Undefined {
  std::shared_ptr<const std::string> message;
};

struct None {};

using Text = std::shared_ptr<const std::string>;

/// Immutable; copies share what they refer to. Integers are of 64 bits.
class Value {
 public:
  Value() : data_(None()) {}
  Value(bool value) : data_(value) {}                  // NOLINT(google-explicit-constructor)
  Value(int64_t value) : data_(value) {}               // NOLINT(google-explicit-constructor)
  Value(double value) : data_(value) {}                // NOLINT(google-explicit-constructor)
  Value(Undefined value) : data_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  Value(Object* value) : data_(value) {}               // NOLINT(google-explicit-constructor)
  /// Not metered: for what the caller brings.
  Value(std::string text)  // NOLINT(google-explicit-constructor)
      : data_(std::make_shared<const std::string>(std::move(text))) {}
  Value(const char* text) : Value(std::string(text)) {}  // NOLINT(google-explicit-constructor)
  /// Throws Error(kUnsupported) beyond kMaxValueDepth and for objects among the items.
  Value(List list);  // NOLINT(google-explicit-constructor)
  Value(Dict dict);  // NOLINT(google-explicit-constructor)

  static Value undefined(std::string message) {
    return Undefined{std::make_shared<const std::string>(std::move(message))};
  }

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_text() const { return std::holds_alternative<Text>(data_); }
  bool is_list() const { return std::holds_alternative<std::shared_ptr<const List>>(data_); }
  bool is_dict() const { return std::holds_alternative<std::shared_ptr<const Dict>>(data_); }
  bool is_object() const { return std::holds_alternative<Object*>(data_); }
  /// An integer or, as in Python, a bool.
  bool is_integer() const { return is_bool() || std::holds_alternative<int64_t>(data_); }
  bool is_number() const { return is_integer() || is_float(); }

  bool boolean() const { return std::get<bool>(data_); }
  int64_t integer() const { return is_bool() ? int64_t{boolean()} : std::get<int64_t>(data_); }
  double number() const {
    return is_float() ? std::get<double>(data_) : static_cast<double>(integer());
  }
  const std::string& text() const { return *std::get<Text>(data_); }
  const List& list() const { return *std::get<std::shared_ptr<const List>>(data_); }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  Object* object() const { return std::get<Object*>(data_); }
  const std::string& undefined_message() const { return *std::get<Undefined>(data_).message; }

  /// How deep lists and dicts are nested in it.
  int depth() const;
  /// Python's name of the type: "str", "NoneType".
  std::string_view type_name() const;

 private:
  std::variant<None, Undefined, bool, int64_t, double, Text, std::shared_ptr<const List>,
               std::shared_ptr<const Dict>, Object*>
      data_;
};

struct List {
  enum class Kind : uint8_t {
    kList,
    kTuple,
    kView,       // of a dict: iterable, without items by number
    kGenerator,  // what lazy filters give: iterable and always true
  };
  std::vector<Value> items;
  Kind kind = Kind::kList;
  int depth = 1;  // set by Value(List)
};

struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in order of insertion, keys all different
  int depth = 1;                               // set by Value(Dict)

  /// Null when there is none. Charges what looking costs.
  const Value* find(const Value& key, Meter& meter) const;
  const Value* find(std::string_view key) const;
  /// Adds or replaces.
  void set(Value key, Value value, Meter& meter);
};

bool truth(const Value& value);
bool equal(const Value& a, const Value& b, Meter& meter);
/// a < b. Throws Error(kInvalidArgument) for values without an order.
bool less(const Value& a, const Value& b, Meter& meter);
/// str(): what printing a value writes.
std::string to_text(const Value& value, Meter& meter);
/// repr(): how it looks inside a printed list.
std::string to_repr(const Value& value, Meter& meter);
/// As Python writes a float.
std::string float_text(double value);

/// Throws Error(kInvalidArgument) with the message of an undefined value, and nothing for others.
void check_defined(const Value& value);

}  // namespace freekv::jinja
