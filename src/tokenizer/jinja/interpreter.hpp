// Runs the syntax tree.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/jinja/operations.hpp"
#include "tokenizer/jinja/syntax.hpp"
#include "tokenizer/jinja/value.hpp"

namespace freekv::jinja {

/// Variables of a body; those of the bodies around it are seen through it.
class Frame {
 public:
  explicit Frame(const Frame* outer) : outer_(outer) {}

  void set(std::string_view name, Value value);
  /// In this frame or those around it; null when there is none.
  const Value* find(std::string_view name) const;

 private:
  const Frame* outer_;
  std::vector<std::pair<std::string_view, Value>> variables_;  // names are the tree's
};

class Interpreter;

/// What a template can call.
class Callable : public Object {
 public:
  virtual Value call(Interpreter& interpreter, Arguments arguments) = 0;
};

/// One rendering.
class Interpreter {
 public:
  Interpreter(const Dict& variables, size_t limit);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  /// Errors do not name the line: see line().
  std::string render(const Body& body);
  /// Of the last thing looked at.
  int line() const { return line_; }
  Meter& meter() { return meter_; }

  /// The text that a macro's body writes when called with these arguments.
  Value call_macro(const Statement& macro, const Frame& around, Arguments arguments);
  /// Keeps an object to the end of the rendering.
  Value keep(std::unique_ptr<Object> object);

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };
  class Level;

  // --- statements: interpreter.cc ---------------------------------------------------------------
  Flow run(const Body& body, Frame& frame);
  Flow run(const Statement& statement, Frame& frame);
  Flow run_if(const Statement& statement, Frame& frame);
  Flow run_for(const Statement& statement, Frame& frame);
  Flow run_with(const Statement& statement, Frame& frame);
  void run_call(const Statement& statement, Frame& frame);
  /// Runs a body in a frame of its own and gives what it wrote.
  Flow capture(const Body& body, Frame& frame, std::string& text);
  void assign(const Expression& target, const Value& value, Frame& frame);
  void print(const Expression& expression, Frame& frame);
  void write(std::string_view text);

  // --- expressions: interpreter_expression.cc ---------------------------------------------------
  Value evaluate(const Expression& expression, Frame& frame);
  Value evaluate_node(const Expression& expression, Frame& frame);
  Value name_value(const Expression& expression, Frame& frame);
  Value sequence(const Expression& expression, Frame& frame);
  Value dict(const Expression& expression, Frame& frame);
  Value sliced(const Expression& expression, Frame& frame);
  Value comparison(const Expression& expression, Frame& frame);
  Value concatenated(const Expression& expression, Frame& frame);
  Value conditional(const Expression& expression, Frame& frame);
  Value call(const Expression& expression, Frame& frame, const Value* caller = nullptr);
  Value filtered(const Expression& expression, const Value& value, Frame& frame);
  /// Filters of a block, innermost first, over the text of its body.
  Value filtered_block(const Expression& expression, Value text, Frame& frame);
  Arguments arguments(const Expression& expression, Frame& frame);

  Meter meter_;
  int line_ = 1;
  int depth_ = 0;
  std::string* out_ = nullptr;
  std::vector<std::unique_ptr<Object>> objects_;
  // Around the template's own variables: the functions, and what the caller gave.
  Frame functions_{nullptr};
  Frame variables_{&functions_};
};

}  // namespace freekv::jinja
