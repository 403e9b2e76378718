// Things with identity that a template works with.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tokenizer/jinja/interpreter.hpp"

namespace freekv::jinja {

/// namespace(): the one thing that can be changed, by `set ns.name = value`.
class Namespace final : public Object {
 public:
  std::string_view type_name() const override { return "namespace"; }
  Value attribute(std::string_view name) const override;
  /// Throws Error(kUnsupported) for objects, which could outlive what they refer to.
  void set(const std::string& name, Value value);

 private:
  std::vector<std::pair<std::string, Value>> attributes_;
};

/// The variable `loop` of one loop.
class Loop final : public Object {
 public:
  explicit Loop(const std::vector<Value>& items) : items_(items) {}
  void advance(size_t index) { index_ = index; }

  std::string_view type_name() const override { return "loop"; }
  Value attribute(std::string_view name) const override;
  /// loop.cycle(...) and loop.changed(...).
  Value call_method(std::string_view name, const Arguments& arguments, Meter& meter);

 private:
  const std::vector<Value>& items_;
  size_t index_ = 0;
  std::vector<Value> last_;  // arguments of changed()
  bool asked_ = false;
};

class Macro final : public Callable {
 public:
  Macro(const Statement& statement, const Frame& around) : statement_(statement), around_(around) {}
  std::string_view type_name() const override { return "macro"; }
  Value call(Interpreter& interpreter, Arguments arguments) override {
    return interpreter.call_macro(statement_, around_, std::move(arguments));
  }

 private:
  const Statement& statement_;
  const Frame& around_;
};

/// Adds the functions that every template has to the frame: range, dict, namespace,
/// raise_exception, strftime_now.
void add_functions(Interpreter& interpreter, Frame& frame);

}  // namespace freekv::jinja
