#include "tokenizer/chat_template.hpp"

#include <utility>

#include "tokenizer/tokenizer.hpp"

namespace freekv {
namespace {

// What a template says when it refuses a conversation is untrusted, and may be of several lines.
Error named(const Error& error, const std::string& name) {
  constexpr size_t kMostBytes = 400;
  std::string message;
  for (const char c : error.message().substr(0, kMostBytes)) {
    const auto byte = static_cast<uint8_t>(c);
    message += byte < 0x20 || byte == 0x7f ? ' ' : c;
  }
  return {error.code(), std::move(message), name};
}

// Of a token that the model has; a template sees no variable for one it lacks.
void add_token(jinja::Dict& variables, const char* name, int32_t id, const Tokenizer& tokenizer) {
  if (id == kNoToken) return;
  variables.items.emplace_back(name, std::string(tokenizer.token_bytes(id)));
}

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string_view source, std::string name) {
  auto parsed = jinja::Template::parse(source);
  if (!parsed.ok()) return named(parsed.error(), name);
  return ChatTemplate(std::move(parsed).value(), std::move(name));
}

std::string ChatTemplate::render(std::span<const ChatMessage> messages, bool add_generation_prompt,
                                 const Tokenizer& tokenizer) const {
  jinja::List list;
  for (const ChatMessage& message : messages) {
    jinja::Dict entry;
    entry.items.emplace_back("role", message.role);
    entry.items.emplace_back("content", message.content);
    list.items.emplace_back(std::move(entry));
  }
  jinja::Dict variables;
  variables.items.emplace_back("messages", std::move(list));
  variables.items.emplace_back("add_generation_prompt", add_generation_prompt);
  // Defined, as Hugging Face does without tools and documents.
  variables.items.emplace_back("tools", jinja::Value());
  variables.items.emplace_back("documents", jinja::Value());
  add_token(variables, "bos_token", tokenizer.bos(), tokenizer);
  add_token(variables, "eos_token", tokenizer.eos(), tokenizer);
  add_token(variables, "pad_token", tokenizer.padding(), tokenizer);
  add_token(variables, "unk_token", tokenizer.unknown(), tokenizer);
  auto text = template_.render(variables);
  if (!text.ok()) throw named(text.error(), name_);
  return std::move(text).value();
}

}  // namespace freekv
