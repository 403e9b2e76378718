#include "tokenizer/jinja/lexer.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "core/check.hpp"
#include "io/quote.hpp"
#include "tokenizer/jinja/text.hpp"

namespace freekv::jinja {
namespace {

using Kind = Token::Kind;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// Line ends become "\n", and the last one goes.
std::string normalized(std::string_view source) {
  std::string text = replaced(replaced(source, "\r\n", "\n", -1), "\r", "\n", -1);
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) root();
    push(Kind::kEnd);
    return std::move(tokens_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) {
    fail(ErrorCode::kParse, "line {}: {}", line(),
         fmt::format(format, std::forward<Args>(args)...));
  }

  int line() {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(counted_),
                                         source_.begin() + static_cast<ptrdiff_t>(at_), '\n'));
    counted_ = at_;
    return line_;
  }

  void push(Kind kind, std::string text = "", Value number = {}) {
    tokens_.push_back({kind, line(), std::move(text), std::move(number)});
  }

  std::string_view rest(size_t from) const { return std::string_view(source_).substr(from); }
  bool looking_at(std::string_view text) const { return rest(at_).starts_with(text); }

  size_t skip_space(size_t from) const {
    return source_.size() - stripped(rest(from), nullptr, true, false).size();
  }

  // Text up to the next tag, and what the tag begins.
  void root() {
    const auto is_tag = [&](size_t at) {
      return at + 1 < source_.size() &&
             std::string_view("%{#").find(source_[at + 1]) != std::string_view::npos;
    };
    size_t begin = at_;
    while ((begin = source_.find('{', begin)) != std::string::npos && !is_tag(begin)) ++begin;
    if (begin == std::string::npos) {
      push(Kind::kData, source_.substr(at_));
      at_ = source_.size();
      return;
    }
    const char tag = source_[begin + 1];
    const char sign = begin + 2 < source_.size() ? source_[begin + 2] : ' ';
    data(begin, sign, tag != '{');
    at_ = begin + 2;
    if (tag == '%') {
      if (const auto end = raw_begin()) {
        raw(*end);
        return;
      }
    }
    if (sign == '-' || sign == '+') ++at_;
    if (tag == '#') {
      comment();
    } else {
      push(tag == '%' ? Kind::kBlockBegin : Kind::kVariableBegin);
      while (!tag_end(tag)) expression_token();
    }
  }

  // The text before a tag at `end`, whose sign says what becomes of the blanks between.
  void data(size_t end, char sign, bool block) {
    std::string_view text = rest(at_).substr(0, end - at_);
    if (sign == '-') {
      text = stripped(text, nullptr, false, true);
    } else if (sign != '+' && block) {
      const size_t line_begin = text.rfind('\n') + 1;  // npos + 1 is 0
      if (line_begin > 0 || line_starts_) {
        if (stripped(text.substr(line_begin), nullptr, true, false).empty()) {
          text = text.substr(0, line_begin);
        }
      }
    }
    if (!text.empty()) push(Kind::kData, std::string(text));
  }

  // After a tag's end at `from`: "%}" takes one newline with it, "-%}" all white space.
  void finish_tag(char sign, size_t from, bool trims_newline) {
    if (sign == '-') {
      from = skip_space(from);
    } else if (sign != '+' && trims_newline && from < source_.size() && source_[from] == '\n') {
      ++from;
    }
    line_starts_ = source_[from - 1] == '\n';
    at_ = from;
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail_here("a comment without its end");
    const char sign = end > at_ ? source_[end - 1] : ' ';
    finish_tag(sign, end + 2, true);
  }

  // Just after "{%": the end of a tag "raw", if it is one.
  std::optional<size_t> raw_begin() const {
    size_t at = at_;
    if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) ++at;
    at = skip_space(at);
    if (!rest(at).starts_with("raw")) return std::nullopt;
    at = skip_space(at + 3);
    if (rest(at).starts_with("-%}")) return skip_space(at + 3);
    if (rest(at).starts_with("%}")) return at + 2;
    return std::nullopt;
  }

  void raw(size_t begin) {
    at_ = begin;
    line_starts_ = source_[begin - 1] == '\n';
    for (size_t tag = begin; (tag = source_.find("{%", tag)) != std::string::npos; ++tag) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
      size_t at = skip_space(tag + (sign == '-' || sign == '+' ? 3 : 2));
      if (!rest(at).starts_with("endraw")) continue;
      at = skip_space(at + 6);
      const char end_sign = at < source_.size() ? source_[at] : ' ';
      if (end_sign == '-' || end_sign == '+') ++at;
      if (!rest(at).starts_with("%}")) continue;
      data(tag, sign, true);
      finish_tag(end_sign, at + 2, true);
      return;
    }
    fail_here("a raw block without its end");
  }

  bool tag_end(char tag) {
    at_ = skip_space(at_);
    if (at_ >= source_.size()) fail_here("a tag without its end");
    if (!brackets_.empty()) return false;
    const std::string_view end = tag == '%' ? "%}" : "}}";
    const char first = source_[at_];
    const bool sign = first == '-' || (first == '+' && tag == '%');
    if (!rest(at_ + (sign ? 1 : 0)).starts_with(end)) return false;
    push(tag == '%' ? Kind::kBlockEnd : Kind::kVariableEnd);
    finish_tag(sign ? first : ' ', at_ + (sign ? 3 : 2), tag == '%');
    return true;
  }

  void expression_token() {
    const char c = source_[at_];
    if (is_digit(c)) {
      number();
    } else if (is_name_start(c)) {
      size_t end = at_;
      while (end < source_.size() && (is_name_start(source_[end]) || is_digit(source_[end]))) ++end;
      push(Kind::kName, source_.substr(at_, end - at_));
      at_ = end;
    } else if (c == '\'' || c == '"') {
      string(c);
    } else {
      operator_token();
    }
  }

  void number() {
    const auto digits = [&](size_t from) {
      while (from < source_.size() &&
             (is_digit(source_[from]) ||
              (source_[from] == '_' && from + 1 < source_.size() && is_digit(source_[from + 1])))) {
        ++from;
      }
      return from;
    };
    const auto digit_at = [&](size_t at) { return at < source_.size() && is_digit(source_[at]); };
    size_t end = digits(at_);
    bool whole = true;
    // "x.0.1" is an item of an item, not a float.
    if (at_ == 0 || source_[at_ - 1] != '.') {
      if (rest(end).starts_with('.') && digit_at(end + 1)) {
        end = digits(end + 1);
        whole = false;
      }
      if (rest(end).starts_with('e') || rest(end).starts_with('E')) {
        const size_t sign = rest(end + 1).starts_with('-') || rest(end + 1).starts_with('+');
        if (digit_at(end + 1 + sign)) {
          end = digits(end + 1 + sign);
          whole = false;
        }
      }
    }
    const std::string text = replaced(rest(at_).substr(0, end - at_), "_", "", -1);
    const char *first = text.data(), *last = text.data() + text.size();
    if (whole && text[0] == '0' && text.find_first_not_of('0') != std::string::npos) {
      fail_here("a number that begins with 0: {}", quoted(text));
    }
    int64_t integer = 0;
    double real = 0;
    const auto done =
        whole ? std::from_chars(first, last, integer) : std::from_chars(first, last, real);
    if (done.ec != std::errc() || done.ptr != last) {
      fail_here("the number {} is outside the range supported", quoted(text));
    }
    push(Kind::kNumber, text, whole ? Value(integer) : Value(real));
    at_ = end;
  }

  void string(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail_here("a string without its end");
    push(Kind::kString, unescaped(rest(at_).substr(1, end - at_ - 1)));
    at_ = end + 1;
  }

  // Python's escapes; an unknown one stands for itself, backslash included.
  std::string unescaped(std::string_view text) {
    constexpr std::string_view kNames = "ntrabfv\\'\"", kValues = "\n\t\r\a\b\f\v\\'\"";
    std::string result;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\') {
        result += text[i];
        continue;
      }
      const char c = text[++i];  // a backslash is never a string's last byte
      if (const size_t known = kNames.find(c); known != std::string_view::npos) {
        result += kValues[known];
      } else if (c >= '0' && c <= '7') {
        size_t end = i;
        uint32_t code = 0;
        while (end < text.size() && end < i + 3 && text[end] >= '0' && text[end] <= '7') {
          code = code * 8 + static_cast<uint32_t>(text[end++] - '0');
        }
        append_utf8(result, code);
        i = end - 1;
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        const std::string_view digits = text.substr(i + 1, count);
        uint32_t code = 0;
        const auto [stop, status] =
            std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
        if (digits.size() < count || stop != digits.data() + count || status != std::errc() ||
            code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
          fail_here("the escape {} is no character", quoted(text.substr(i - 1, count + 2)));
        }
        append_utf8(result, code);
        i += count;
      } else if (c == 'N') {
        fail_here("characters by name (\\N) in strings");
      } else if (c != '\n') {
        result += '\\';
        result += c;
      }
    }
    return result;
  }

  void operator_token() {
    constexpr std::array<std::string_view, 26> kOperators = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    const auto found = std::find_if(kOperators.begin(), kOperators.end(),
                                    [&](std::string_view op) { return looking_at(op); });
    if (found == kOperators.end()) {
      fail_here("unexpected {}", quoted(rest(at_).substr(0, 1)));
    }
    const char c = (*found)[0];
    if (c == '(' || c == '[' || c == '{') {
      brackets_ += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (brackets_.empty()) fail_here("unexpected '{}'", c);
      if (brackets_.back() != c) fail_here("unexpected '{}', expected '{}'", c, brackets_.back());
      brackets_.pop_back();
    }
    push(Kind::kOperator, std::string(*found));
    at_ += found->size();
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  size_t counted_ = 0;       // bytes whose newlines are in line_
  bool line_starts_ = true;  // the last tag ended with a newline, or there was none
  std::string brackets_;     // that close the open ones
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace freekv::jinja
