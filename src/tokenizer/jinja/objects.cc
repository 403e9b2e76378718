#include "tokenizer/jinja/objects.hpp"

#include <algorithm>
#include <ctime>

#include "core/check.hpp"

namespace freekv::jinja {
namespace {

class Function final : public Callable {
 public:
  using Body = Value (*)(Interpreter& interpreter, Arguments& arguments);
  Function(std::string_view name, Body body) : name_(name), body_(body) {}
  std::string_view type_name() const override { return "function"; }
  Value call(Interpreter& interpreter, Arguments arguments) override {
    Value result = body_(interpreter, arguments);
    arguments.check_all_used(name_);
    return result;
  }

 private:
  std::string_view name_;
  Body body_;
};

Value range(Interpreter& interpreter, Arguments& arguments) {
  constexpr uint64_t kMost = 100000;  // of jinja2's sandbox
  const int64_t first = to_integer(arguments.need(0, "start"), "range");
  const Value* stop = arguments.get(1, "stop");
  const int64_t begin = stop ? first : 0;
  const int64_t end = stop ? to_integer(*stop, "range") : first;
  const int64_t step = to_integer(arguments.get_or(2, "step", int64_t{1}), "range");
  if (step == 0) fail(ErrorCode::kInvalidArgument, "the step of a range is 0");
  List list;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (list.items.size() == kMost) {
      fail(ErrorCode::kInvalidArgument, "a range of more than {} numbers", kMost);
    }
    interpreter.meter().charge(sizeof(Value));
    list.items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return list;
}

// dict(other, key=value, ...), which namespace() takes too.
Dict make_dict(Interpreter& interpreter, Arguments& arguments) {
  Dict dict;
  if (const Value* other = arguments.get(0, "")) {
    if (!other->is_dict()) {
      fail(ErrorCode::kUnsupported, "making a dict of a {} is not supported", other->type_name());
    }
    dict.items = other->dict().items;
    interpreter.meter().charge(dict.items.size() * sizeof(Value));
  }
  const Arguments named = arguments.rest(1);
  for (const auto& [name, value] : named.keywords()) {
    dict.set(Value(name), value, interpreter.meter());
  }
  return dict;
}

Value dict(Interpreter& interpreter, Arguments& arguments) {
  return make_dict(interpreter, arguments);
}

Value make_namespace(Interpreter& interpreter, Arguments& arguments) {
  auto made = std::make_unique<Namespace>();
  for (auto& [name, value] : make_dict(interpreter, arguments).items) {
    made->set(to_string(name, "an attribute's name"), value);
  }
  return interpreter.keep(std::move(made));
}

Value raise_exception(Interpreter& interpreter, Arguments& arguments) {
  fail(ErrorCode::kInvalidArgument, "{}",
       to_text(arguments.need(0, "message"), interpreter.meter()));
}

Value strftime_now(Interpreter& interpreter, Arguments& arguments) {
  const std::string& format = to_string(arguments.need(0, "format"), "format");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string text(format.size() * 16 + 256, '\0');
  interpreter.meter().charge(text.size());
  text.resize(std::strftime(text.data(), text.size(), format.c_str(), &local));
  return Value(std::move(text));
}

Value refused(Interpreter&, Arguments&) {
  fail(ErrorCode::kUnsupported, "cycler, joiner and lipsum are not supported");
}

}  // namespace

Value Namespace::attribute(std::string_view name) const {
  for (const auto& [known, value] : attributes_) {
    if (known == name) return value;
  }
  return Object::attribute(name);
}

void Namespace::set(const std::string& name, Value value) {
  if (value.is_object()) {
    fail(ErrorCode::kUnsupported, "a {} in a namespace is not supported",
         value.object()->type_name());
  }
  for (auto& [known, old] : attributes_) {
    if (known != name) continue;
    old = std::move(value);
    return;
  }
  attributes_.emplace_back(name, std::move(value));
}

Value Loop::attribute(std::string_view name) const {
  const auto number = [](size_t value) { return Value(static_cast<int64_t>(value)); };
  const size_t size = items_.size();
  if (name == "index") return number(index_ + 1);
  if (name == "index0") return number(index_);
  if (name == "revindex") return number(size - index_);
  if (name == "revindex0") return number(size - index_ - 1);
  if (name == "first") return index_ == 0;
  if (name == "last") return index_ + 1 == size;
  if (name == "length") return number(size);
  // Only recursive loops, which are refused, are deeper.
  if (name == "depth") return int64_t{1};
  if (name == "depth0") return int64_t{0};
  if (name == "previtem") {
    return index_ > 0 ? items_[index_ - 1] : Value::undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index_ + 1 < size ? items_[index_ + 1] : Value::undefined("there is no next item");
  }
  return Object::attribute(name);
}

Value Loop::call_method(std::string_view name, const Arguments& arguments, Meter& meter) {
  const auto& values = arguments.positional();
  if (!arguments.keywords().empty()) {
    fail(ErrorCode::kInvalidArgument, "'loop.{}' takes no named arguments", name);
  }
  if (name == "cycle") {
    if (values.empty()) fail(ErrorCode::kInvalidArgument, "no items for cycling given");
    return values[index_ % values.size()];
  }
  if (name == "changed") {
    const bool same =
        asked_ && std::equal(values.begin(), values.end(), last_.begin(), last_.end(),
                             [&](const Value& a, const Value& b) { return equal(a, b, meter); });
    asked_ = true;
    if (!same) last_ = values;
    return !same;
  }
  fail(ErrorCode::kUnsupported, "calling loop.{} is not supported", name);
}

void add_functions(Interpreter& interpreter, Frame& frame) {
  const auto add = [&](std::string_view name, Function::Body body) {
    frame.set(name, interpreter.keep(std::make_unique<Function>(name, body)));
  };
  add("range", range);
  add("dict", dict);
  add("namespace", make_namespace);
  add("raise_exception", raise_exception);
  add("strftime_now", strftime_now);
  for (const std::string_view name : {"cycler", "joiner", "lipsum"}) add(name, refused);
}

}  // namespace freekv::jinja
