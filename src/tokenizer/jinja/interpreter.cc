// Statements.
#include "tokenizer/jinja/interpreter.hpp"

#include "core/check.hpp"
#include "io/quote.hpp"
#include "tokenizer/jinja/objects.hpp"

namespace freekv::jinja {

void Frame::set(std::string_view name, Value value) {
  for (auto& [known, old] : variables_) {
    if (known != name) continue;
    old = std::move(value);
    return;
  }
  variables_.emplace_back(name, std::move(value));
}

const Value* Frame::find(std::string_view name) const {
  for (const Frame* frame = this; frame; frame = frame->outer_) {
    for (const auto& [known, value] : frame->variables_) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

Interpreter::Interpreter(const Dict& variables, size_t limit) : meter_(limit) {
  add_functions(*this, functions_);
  for (const auto& [name, value] : variables.items) variables_.set(name.text(), value);
}

Interpreter::~Interpreter() = default;

std::string Interpreter::render(const Body& body) {
  std::string text;
  out_ = &text;
  Frame frame(&variables_);
  run(body, frame);
  return text;
}

Value Interpreter::keep(std::unique_ptr<Object> object) {
  meter_.charge(sizeof(Value) * 4);
  objects_.push_back(std::move(object));
  return Value(objects_.back().get());
}

void Interpreter::write(std::string_view text) {
  meter_.charge(text.size());
  out_->append(text);
}

void Interpreter::print(const Expression& expression, Frame& frame) {
  // Nothing is escaped, so `safe` changes nothing where a value is printed; elsewhere it would
  // make later additions escaped, and is refused.
  const Expression* inner = &expression;
  while (inner->kind == Expression::Kind::kFilter && inner->name == "safe" &&
         inner->parts.size() == 1 && inner->keywords.empty()) {
    inner = inner->parts[0].get();
  }
  const Value value = evaluate(*inner, frame);
  if (value.is_text()) {
    write(value.text());
  } else {
    write(to_text(value, meter_));
  }
}

Interpreter::Flow Interpreter::run(const Body& body, Frame& frame) {
  for (const Statement& statement : body) {
    const Flow flow = run(statement, frame);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run(const Statement& statement, Frame& frame) {
  using Kind = Statement::Kind;
  line_ = statement.line;
  meter_.charge(sizeof(Value));
  switch (statement.kind) {
    case Kind::kText:
      write(statement.name);
      break;
    case Kind::kPrint:
      print(*statement.value, frame);
      break;
    case Kind::kIf:
      return run_if(statement, frame);
    case Kind::kFor:
      return run_for(statement, frame);
    case Kind::kSet:
      assign(*statement.target, evaluate(*statement.value, frame), frame);
      break;
    case Kind::kWith:
      return run_with(statement, frame);
    case Kind::kMacro:
      frame.set(statement.name, keep(std::make_unique<Macro>(statement, frame)));
      break;
    case Kind::kCall:
      run_call(statement, frame);
      break;
    case Kind::kSetBlock:
    case Kind::kFilter: {
      std::string text;
      const Flow flow = capture(statement.body, frame, text);
      if (flow != Flow::kNext) return flow;
      Value value(std::move(text));
      if (statement.value) value = filtered_block(*statement.value, std::move(value), frame);
      if (statement.kind == Kind::kSetBlock) {
        assign(*statement.target, value, frame);
      } else {
        write(to_text(value, meter_));
      }
      break;
    }
    case Kind::kGeneration: {
      Frame inner(&frame);
      return run(statement.body, inner);
    }
    case Kind::kBreak:
      return Flow::kBreak;
    case Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_if(const Statement& statement, Frame& frame) {
  for (const Statement::Branch& branch : statement.branches) {
    if (!branch.test || truth(evaluate(*branch.test, frame))) return run(branch.body, frame);
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_for(const Statement& statement, Frame& frame) {
  std::vector<Value> items = iterate(evaluate(*statement.value, frame), meter_);
  if (statement.test) {
    std::vector<Value> chosen;
    for (Value& item : items) {
      Frame inner(&frame);
      assign(*statement.target, item, inner);
      if (truth(evaluate(*statement.test, inner))) chosen.push_back(std::move(item));
    }
    items = std::move(chosen);
  }
  Loop loop(items);
  bool completed = false;
  for (size_t i = 0; i < items.size(); ++i) {
    loop.advance(i);
    Frame inner(&frame);
    inner.set("loop", Value(static_cast<Object*>(&loop)));
    assign(*statement.target, items[i], inner);
    const Flow flow = run(statement.body, inner);
    if (flow == Flow::kBreak) break;
    completed |= flow == Flow::kNext;
  }
  if (completed) return Flow::kNext;
  // As in jinja2: also when every turn ended in `continue`, or the first in `break`.
  Frame inner(&frame);
  return run(statement.otherwise, inner);
}

Interpreter::Flow Interpreter::run_with(const Statement& statement, Frame& frame) {
  Frame inner(&frame);
  for (const Parameter& parameter : statement.parameters) {
    inner.set(parameter.name, evaluate(*parameter.value, frame));
  }
  return run(statement.body, inner);
}

void Interpreter::run_call(const Statement& statement, Frame& frame) {
  Macro body(statement, frame);
  const Value caller(static_cast<Object*>(&body));
  write(to_text(call(*statement.value, frame, &caller), meter_));
}

Interpreter::Flow Interpreter::capture(const Body& body, Frame& frame, std::string& text) {
  std::string* const outer = std::exchange(out_, &text);
  Frame inner(&frame);
  const Flow flow = run(body, inner);
  out_ = outer;
  return flow;
}

Value Interpreter::call_macro(const Statement& macro, const Frame& around, Arguments arguments) {
  Frame frame(&around);
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const Parameter& parameter = macro.parameters[i];
    if (const Value* given = arguments.get(i, parameter.name)) {
      frame.set(parameter.name, *given);
    } else if (parameter.value) {
      frame.set(parameter.name, evaluate(*parameter.value, frame));
    } else {
      frame.set(parameter.name,
                Value::undefined(fmt::format("parameter '{}' was not provided", parameter.name)));
    }
  }
  if (const Value* caller = arguments.get(SIZE_MAX, "caller")) frame.set("caller", *caller);
  arguments.check_all_used(macro.name.empty() ? "caller" : macro.name);
  std::string text;
  capture(macro.body, frame, text);
  return Value(std::move(text));
}

void Interpreter::assign(const Expression& target, const Value& value, Frame& frame) {
  if (target.kind == Expression::Kind::kName) {
    frame.set(target.name, value);
    return;
  }
  if (target.kind == Expression::Kind::kAttribute) {
    const Value* found = frame.find(target.parts[0]->name);
    auto* const space =
        found && found->is_object() ? dynamic_cast<Namespace*>(found->object()) : nullptr;
    if (!space) {
      fail(ErrorCode::kInvalidArgument, "{} is no namespace, so its attribute cannot be set",
           quoted(target.parts[0]->name));
    }
    meter_.charge(sizeof(Value));
    space->set(target.name, value);
    return;
  }
  const std::vector<Value> items = iterate(value, meter_);
  if (items.size() != target.parts.size()) {
    fail(ErrorCode::kInvalidArgument, "{} values are unpacked to {} names", items.size(),
         target.parts.size());
  }
  for (size_t i = 0; i < items.size(); ++i) assign(*target.parts[i], items[i], frame);
}

}  // namespace freekv::jinja
