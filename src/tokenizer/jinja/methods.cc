// Methods of str, list and dict.
#include <algorithm>
#include <array>
#include <span>

#include "core/check.hpp"
#include "io/quote.hpp"
#include "tokenizer/jinja/operations.hpp"
#include "tokenizer/jinja/text.hpp"

namespace freekv::jinja {
namespace {

// All methods that Python's types have, so that one missing here is refused and not undefined.
constexpr std::array<std::string_view, 47> kTextMethods = {
    "capitalize",   "casefold",    "center",    "count",      "encode",       "endswith",
    "expandtabs",   "find",        "format",    "format_map", "index",        "isalnum",
    "isalpha",      "isascii",     "isdecimal", "isdigit",    "isidentifier", "islower",
    "isnumeric",    "isprintable", "isspace",   "istitle",    "isupper",      "join",
    "ljust",        "lower",       "lstrip",    "maketrans",  "partition",    "removeprefix",
    "removesuffix", "replace",     "rfind",     "rindex",     "rjust",        "rpartition",
    "rsplit",       "rstrip",      "split",     "splitlines", "startswith",   "strip",
    "swapcase",     "title",       "translate", "upper",      "zfill"};
// Without those that change the value: the sandbox hides them.
constexpr std::array<std::string_view, 6> kDictMethods = {"copy",  "fromkeys", "get",
                                                          "items", "keys",     "values"};
constexpr std::array<std::string_view, 3> kListMethods = {"copy", "count", "index"};

std::span<const std::string_view> methods_of(const Value& value) {
  if (value.is_text()) return kTextMethods;
  if (value.is_dict()) return kDictMethods;
  if (value.is_list()) {
    const std::span<const std::string_view> all = kListMethods;
    if (value.list().kind == List::Kind::kList) return all;
    if (value.list().kind == List::Kind::kTuple) return all.subspan(1);
  }
  return {};
}

Value text_list(std::vector<std::string> pieces, Meter& meter) {
  List list;
  for (std::string& piece : pieces) list.items.push_back(metered_text(std::move(piece), meter));
  return list;
}

// strip, lstrip and rstrip; the sides are told by the name's first letter.
Value strip(const std::string& text, std::string_view name, Arguments& arguments, Meter& meter) {
  const Value chars = arguments.get_or(0, "chars", Value());
  const std::string* set = chars.is_none() ? nullptr : &to_string(chars, "chars");
  if (set) meter.charge(text.size() * set->size());
  return metered_text(std::string(stripped(text, set, name != "rstrip", name != "lstrip")), meter);
}

Value split(const std::string& text, std::string_view name, Arguments& arguments, Meter& meter) {
  const Value separator = arguments.get_or(0, "sep", Value());
  const int64_t limit = to_integer(arguments.get_or(1, "maxsplit", int64_t{-1}), "maxsplit");
  const bool from_right = name == "rsplit";
  if (separator.is_none()) {
    if (from_right && limit >= 0) {
      fail(ErrorCode::kUnsupported, "rsplit at white space with a limit is not supported");
    }
    return text_list(split_space(text, limit), meter);
  }
  const std::string& at = to_string(separator, "sep");
  if (at.empty()) fail(ErrorCode::kInvalidArgument, "the separator of a split is empty");
  meter.charge(text.size());
  return text_list(split_at(text, at, limit, from_right), meter);
}

// startswith and endswith: one text, or any of a tuple.
bool has_affix(const std::string& text, bool at_start, Arguments& arguments) {
  const Value& affix = arguments.need(0, "prefix");
  const auto matches = [&](const Value& value) {
    const std::string& wanted = to_string(value, "what a text starts or ends with");
    return at_start ? text.starts_with(wanted) : text.ends_with(wanted);
  };
  if (affix.is_list() && affix.list().kind == List::Kind::kTuple) {
    return std::any_of(affix.list().items.begin(), affix.list().items.end(), matches);
  }
  return matches(affix);
}

// find, rfind, index, rindex, count: in characters.
Value search(const std::string& text, std::string_view name, Arguments& arguments, Meter& meter) {
  const std::string& wanted = to_string(arguments.need(0, "sub"), "sub");
  meter.charge(text.size());
  if (name == "count") {
    if (wanted.empty()) return character_count(text) + 1;
    return static_cast<int64_t>(split_at(text, wanted, -1, false).size()) - 1;
  }
  const size_t at = name[0] == 'r' ? text.rfind(wanted) : text.find(wanted);
  if (at != std::string::npos) return character_count(std::string_view(text).substr(0, at));
  if (name.ends_with("index")) fail(ErrorCode::kInvalidArgument, "substring not found");
  return int64_t{-1};
}

Value partition(const std::string& text, std::string_view name, Arguments& arguments,
                Meter& meter) {
  const std::string& separator = to_string(arguments.need(0, "sep"), "sep");
  if (separator.empty()) fail(ErrorCode::kInvalidArgument, "the separator of a split is empty");
  const bool from_right = name == "rpartition";
  auto pieces = split_at(text, separator, 1, from_right);
  const bool found = pieces.size() == 2;
  if (found) {
    pieces.insert(pieces.begin() + 1, separator);
  } else {
    pieces.insert(from_right ? pieces.begin() : pieces.end(), 2, "");
  }
  List result{.items = text_list(std::move(pieces), meter).list().items,
              .kind = List::Kind::kTuple};
  return result;
}

// isdigit and the like: true when no character fails and there is one.
bool all_of_class(const std::string& text, std::string_view name) {
  bool letters = false, fits = true;
  for (const char c : text) {
    if (static_cast<uint8_t>(c) >= 0x80) {
      fail(ErrorCode::kUnsupported, "{} of characters that are not ASCII", name);
    }
    const bool digit = c >= '0' && c <= '9';
    const bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z';
    letters |= lower || upper;
    if (name == "isalpha") fits &= lower || upper;
    if (name == "isalnum") fits &= lower || upper || digit;
    if (name == "isdigit" || name == "isdecimal" || name == "isnumeric") fits &= digit;
    if (name == "islower") fits &= !upper;
    if (name == "isupper") fits &= !lower;
  }
  const bool cased = name == "islower" || name == "isupper";
  return fits && !text.empty() && (letters || !cased);
}

Value text_method(const std::string& text, std::string_view name, Arguments& arguments,
                  Meter& meter) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    return strip(text, name, arguments, meter);
  }
  if (name == "split" || name == "rsplit") return split(text, name, arguments, meter);
  if (name == "startswith" || name == "endswith") {
    return has_affix(text, name == "startswith", arguments);
  }
  if (name == "find" || name == "rfind" || name == "index" || name == "rindex" || name == "count") {
    return search(text, name, arguments, meter);
  }
  if (name == "partition" || name == "rpartition") return partition(text, name, arguments, meter);
  if (name == "replace") {
    const std::string& from = to_string(arguments.need(0, "old"), "old");
    const std::string& to = to_string(arguments.need(1, "new"), "new");
    return replace_text(text, from, to,
                        to_integer(arguments.get_or(2, "count", int64_t{-1}), "count"), meter);
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string& affix = to_string(arguments.need(0, "prefix"), "prefix");
    const bool prefix = name == "removeprefix";
    if (!(prefix ? text.starts_with(affix) : text.ends_with(affix))) return Value(text);
    return metered_text(text.substr(prefix ? affix.size() : 0, text.size() - affix.size()), meter);
  }
  if (name == "lower" || name == "casefold") {
    return metered_text(in_case(text, Case::kLower), meter);
  }
  if (name == "upper") return metered_text(in_case(text, Case::kUpper), meter);
  if (name == "capitalize") return metered_text(in_case(text, Case::kCapital), meter);
  if (name == "title") return metered_text(in_case(text, Case::kWords), meter);
  if (name == "splitlines") {
    return text_list(split_lines(text, truth(arguments.get_or(0, "keepends", false))), meter);
  }
  if (name == "join") {
    std::string joined;
    bool first = true;
    for (const Value& piece : iterate(arguments.need(0, "iterable"), meter)) {
      if (!first) joined += text;
      joined += to_string(piece, "an item of a join");
      meter.charge(text.size() + piece.text().size());
      first = false;
    }
    return Value(std::move(joined));
  }
  if (name == "isspace") return !text.empty() && stripped(text, nullptr, true, true).empty();
  constexpr std::array<std::string_view, 7> kClasses = {
      "isalpha", "isalnum", "isdigit", "isdecimal", "isnumeric", "islower", "isupper"};
  if (std::find(kClasses.begin(), kClasses.end(), name) != kClasses.end()) {
    return all_of_class(text, name);
  }
  fail(ErrorCode::kUnsupported, "the method {} of str is not supported", quoted(name));
}

Value dict_view(const Dict& dict, bool keys, bool values, Meter& meter) {
  List view{.items = {}, .kind = List::Kind::kView};
  for (const auto& [key, value] : dict.items) {
    meter.charge(2 * sizeof(Value));
    if (keys && values) {
      view.items.emplace_back(List{.items = {key, value}, .kind = List::Kind::kTuple});
    } else {
      view.items.push_back(keys ? key : value);
    }
  }
  return view;
}

Value dict_method(const Value& self, std::string_view name, Arguments& arguments, Meter& meter) {
  const Dict& dict = self.dict();
  if (name == "items") return dict_view(dict, true, true, meter);
  if (name == "keys") return dict_view(dict, true, false, meter);
  if (name == "values") return dict_view(dict, false, true, meter);
  if (name == "copy") return self;
  if (name == "get") {
    const Value otherwise = arguments.get_or(1, "default", Value());
    const Value* found = dict.find(arguments.need(0, "key"), meter);
    return found ? *found : otherwise;
  }
  fail(ErrorCode::kUnsupported, "the method {} of dict is not supported", quoted(name));
}

Value list_method(const Value& self, std::string_view name, Arguments& arguments, Meter& meter) {
  if (name == "copy") return self;
  const auto& items = self.list().items;
  const Value& wanted = arguments.need(0, "value");
  const auto same = [&](const Value& other) { return equal(other, wanted, meter); };
  if (name == "count") return static_cast<int64_t>(std::count_if(items.begin(), items.end(), same));
  const auto found = std::find_if(items.begin(), items.end(), same);
  if (found == items.end()) fail(ErrorCode::kInvalidArgument, "the value is not in the list");
  return static_cast<int64_t>(found - items.begin());
}

}  // namespace

Value replace_text(const std::string& text, const std::string& from, const std::string& to,
                   int64_t limit, Meter& meter) {
  // What it may grow to is paid for before it is built.
  const int64_t found = from.empty() ? character_count(text) + 1
                                     : static_cast<int64_t>(split_at(text, from, -1, false).size());
  meter.charge(text.size() * 2);
  meter.charge(static_cast<size_t>(found) * to.size());
  return Value(replaced(text, from, to, limit));
}

bool has_method(const Value& value, std::string_view name) {
  const auto methods = methods_of(value);
  return std::find(methods.begin(), methods.end(), name) != methods.end();
}

Value call_method(const Value& value, std::string_view name, Arguments arguments, Meter& meter) {
  Value result;
  if (value.is_text()) {
    meter.charge(value.text().size());
    result = text_method(value.text(), name, arguments, meter);
  } else if (value.is_dict()) {
    result = dict_method(value, name, arguments, meter);
  } else {
    result = list_method(value, name, arguments, meter);
  }
  arguments.check_all_used(name);
  return result;
}

}  // namespace freekv::jinja
