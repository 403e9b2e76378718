// Any bytes as a chat template: refused with an Error of one line, or rendered within its limits.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "tokenizer/jinja/template.hpp"

namespace freekv::jinja {
namespace {

Dict conversation() {
  List messages;
  for (const auto& [role, content] : {std::pair("system", " be brief\n"),
                                      {"user", "h\xc3\xa9llo"},
                                      {"assistant", "<think>\xff</think> yes"},
                                      {"user", ""}}) {
    Dict message;
    message.items = {{"role", role}, {"content", content}};
    messages.items.emplace_back(std::move(message));
  }
  Dict variables;
  variables.items = {{"messages", std::move(messages)},
                     {"add_generation_prompt", true},
                     {"tools", Value()},
                     {"bos_token", "<s>"},
                     {"eos_token", "</s>"}};
  return variables;
}

}  // namespace
}  // namespace freekv::jinja

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace freekv::jinja;
  constexpr size_t kLimit = size_t{4} << 20;
  auto parsed = Template::parse({reinterpret_cast<const char*>(data), size});
  if (!parsed.ok()) return 0;
  static const Dict variables = conversation();
  const auto text = parsed.value().render(variables, kLimit);
  // Nothing is written that was not paid for.
  if (text.ok()) {
    auto again = parsed.value().render(variables, kLimit);
    if (!again.ok() || again.value().size() > kLimit) std::abort();
  } else if (!text.error().message().starts_with("line ")) {
    std::abort();
  }
  return 0;
}
