// json.dumps(): what the filter tojson writes with Hugging Face's settings.
#include <algorithm>
#include <cmath>

#include "core/check.hpp"
#include "tokenizer/jinja/operations.hpp"
#include "tokenizer/jinja/text.hpp"

namespace freekv::jinja {
namespace {

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Meter& meter) : style_(style), meter_(meter) {}

  void write(const Value& value, int level) {
    if (value.is_text()) {
      add(json_text(value.text(), style_.ensure_ascii));
    } else if (value.is_list() && (value.list().kind == List::Kind::kList ||
                                   value.list().kind == List::Kind::kTuple)) {
      const auto& items = value.list().items;
      sequence('[', ']', items.size(), level, [&](size_t i) { write(items[i], level + 1); });
    } else if (value.is_dict()) {
      dict(value.dict(), level);
    } else {
      add(scalar(value));
    }
  }

  std::string take() { return std::move(text_); }

 private:
  void add(std::string_view text) {
    meter_.charge(text.size());
    text_ += text;
  }

  static std::string scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (value.is_bool()) return value.boolean() ? "true" : "false";
    if (value.is_integer()) return fmt::format("{}", value.integer());
    if (!value.is_float()) {
      fail(ErrorCode::kInvalidArgument, "a {} has no form in JSON", value.type_name());
    }
    const double number = value.number();
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
    return float_text(number);
  }

  void new_line(int level) {
    if (!style_.indent) return;
    add("\n");
    for (int i = 0; i < level; ++i) add(*style_.indent);
  }

  template <typename Write>
  void sequence(char open, char close, size_t count, int level, const Write& write_item) {
    add(std::string_view(&open, 1));
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) add(style_.item_separator);
      new_line(level + 1);
      write_item(i);
    }
    if (count > 0) new_line(level);
    add(std::string_view(&close, 1));
  }

  void dict(const Dict& dict, int level) {
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& entry : dict.items) items.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [&](const auto* a, const auto* b) {
        return less(a->first, b->first, meter_);
      });
    }
    sequence('{', '}', items.size(), level, [&](size_t i) {
      const auto& [key, value] = *items[i];
      add(json_text(key.is_text() ? key.text() : scalar(key), style_.ensure_ascii));
      add(style_.key_separator);
      write(value, level + 1);
    });
  }

  const JsonStyle& style_;
  Meter& meter_;
  std::string text_;
};

}  // namespace

std::string to_json(const Value& value, const JsonStyle& style, Meter& meter) {
  JsonWriter writer(style, meter);
  writer.write(value, 0);
  return writer.take();
}

}  // namespace freekv::jinja
