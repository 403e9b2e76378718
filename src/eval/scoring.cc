#include "eval/scoring.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>

namespace freekv::eval {
namespace {

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

/// The index after the brace that closes the one at `open`; npos when none does.
size_t after_closing_brace(std::string_view text, size_t open) {
  int depth = 0;
  for (size_t at = open; at < text.size(); ++at) {
    if (text[at] == '{') ++depth;
    if (text[at] == '}' && --depth == 0) return at + 1;
  }
  return std::string_view::npos;
}

/// \text{Evelyn} becomes Evelyn.
void unwrap(std::string& text, std::string_view command) {
  for (size_t at = 0; (at = text.find(command, at)) != std::string::npos;) {
    const size_t open = at + command.size() - 1;
    const size_t end = after_closing_brace(text, open);
    if (end == std::string::npos) return;
    text.erase(end - 1, 1);
    text.erase(at, command.size());
  }
}

bool parse_number(std::string_view text, double& value) {
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  return status == std::errc{} && end == text.data() + text.size() && std::isfinite(value);
}

/// "1,234" with commas in thousands' places becomes 1234; "1,-2" and "3,5,7" stay.
void drop_thousands(std::string& text) {
  const size_t first = text.find(',');
  if (first == std::string::npos || first == 0 || first > 4) return;
  for (size_t at = 0; at < text.size(); ++at) {
    const bool comma = at >= first && (at - first) % 4 == 0;
    if (comma ? text[at] != ','
              : !(std::isdigit(static_cast<unsigned char>(text[at])) ||
                  (at == 0 && text[at] == '-'))) {
      return;
    }
  }
  if ((text.size() - first) % 4 == 0) replace_all(text, ",", "");
}

}  // namespace

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

std::string lowercase(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

std::vector<std::string> split(std::string_view text, std::string_view separator) {
  std::vector<std::string> pieces;
  for (size_t at = 0;;) {
    const size_t next = text.find(separator, at);
    pieces.emplace_back(trimmed(text.substr(at, next - at)));
    if (next == std::string_view::npos) return pieces;
    at = next + separator.size();
  }
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

double string_match(std::string_view answer, const std::vector<std::string>& references) {
  const std::string text = lowercase(answer);
  const auto found = std::count_if(
      references.begin(), references.end(),
      [&](const std::string& reference) { return contains(text, lowercase(reference)); });
  return references.empty() ? 0
                            : static_cast<double>(found) / static_cast<double>(references.size());
}

size_t common_subsequence(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  std::vector<size_t> row(b.size() + 1, 0);
  for (const std::string& item : a) {
    size_t diagonal = 0;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = item == b[j - 1] ? diagonal + 1 : std::max(above, row[j - 1]);
      diagonal = above;
    }
  }
  return row.back();
}

std::string boxed_answer(std::string_view text) {
  constexpr std::string_view kBoxed = "\\boxed{";
  // A box that is cut off at the end of the answer says nothing; the one before it may.
  for (size_t at = text.rfind(kBoxed); at != std::string_view::npos;
       at = at == 0 ? std::string_view::npos : text.rfind(kBoxed, at - 1)) {
    const size_t open = at + kBoxed.size() - 1;
    const size_t end = after_closing_brace(text, open);
    if (end != std::string_view::npos) {
      return std::string(trimmed(text.substr(open + 1, end - open - 2)));
    }
  }
  return "";
}

std::string normalised_math(std::string_view answer) {
  std::string text(trimmed(answer));
  for (std::string_view command : {"\\text{", "\\mathrm{", "\\textbf{", "\\mbox{"}) {
    unwrap(text, command);
  }
  constexpr std::array<std::string_view, 14> kNothing = {
      "\\left",    "\\right", "\\!", "\\,", "\\;",    "\\ ", "^\\circ",
      "^{\\circ}", "\\$",     "$",   "\\%", "\\quad", " ",   "\n"};
  for (std::string_view part : kNothing) replace_all(text, part, "");
  replace_all(text, "\\dfrac", "\\frac");
  replace_all(text, "\\tfrac", "\\frac");
  replace_all(text, "\\cdot", "*");
  // "x=5" says 5; "x=5,y=2" says more.
  if (text.size() > 2 && text[1] == '=' && text.find('=', 2) == std::string::npos) text.erase(0, 2);
  while (!text.empty() && text.back() == '.') text.pop_back();
  // \frac12 and \sqrt2 are read with single characters as arguments.
  for (std::string_view command : {"\\frac", "\\sqrt"}) {
    const int arguments = command == "\\frac" ? 2 : 1;
    for (size_t at = 0; (at = text.find(command, at)) != std::string::npos;) {
      at += command.size();
      size_t argument = at;
      for (int i = 0; i < arguments && argument < text.size(); ++i) {
        if (text[argument] == '{') {
          argument = after_closing_brace(text, argument);
        } else if (std::isalnum(static_cast<unsigned char>(text[argument]))) {
          text.insert(argument + 1, "}");
          text.insert(argument, "{");
          argument += 3;
        } else {
          break;
        }
      }
    }
  }
  drop_thousands(text);
  return text;
}

bool same_math(std::string_view a, std::string_view b) {
  const std::string x = normalised_math(a), y = normalised_math(b);
  if (x == y) return !x.empty();
  double u = 0, v = 0;
  return parse_number(x, u) && parse_number(y, v) && u == v;
}

}  // namespace freekv::eval
