#include "tokenizer/terminal_text.hpp"

#include "tokenizer/utf8.hpp"

namespace freekv {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

bool is_high_control(uint32_t code) { return code >= 0x80 && code < 0xa0; }

}  // namespace

std::string for_terminal(std::string_view text) {
  std::string shown;
  shown.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    const std::string_view character = text.substr(0, step.length);
    text.remove_prefix(step.length);
    const auto first = static_cast<unsigned char>(character.front());
    const bool control = first < 0x20 && first != '\t' && first != '\n';
    if (control || first == 0x7f) {
      shown += '^';
      shown += static_cast<char>(first ^ 0x40);
    } else if (step.state != Utf8State::kValid || is_high_control(utf8_code_point(character))) {
      shown += kReplacement;
    } else {
      shown += character;
    }
  }
  return shown;
}

}  // namespace freekv
