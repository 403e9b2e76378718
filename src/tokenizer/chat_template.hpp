// Conversations to the text that a chat model was trained on, by the model's own template.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "freekv/chat.hpp"
#include "freekv/error.hpp"
#include "tokenizer/jinja/template.hpp"

namespace freekv {

class Tokenizer;

/// Immutable once made.
class ChatTemplate {
 public:
  /// `source` is untrusted Jinja; `name` is where it stands ("model.gguf: tokenizer.chat_template")
  /// and begins every error, with the line after it.
  static Result<ChatTemplate> parse(std::string_view source, std::string name);

  /// The conversation as text, up to where the next answer begins when `add_generation_prompt`.
  /// The template writes the model's special tokens itself: encode with parse_special and without
  /// add_bos. Throws Error, of one line: kInvalidArgument when the template refuses the
  /// conversation, kUnsupported, or kOutOfMemory when it does more than any conversation needs.
  std::string render(std::span<const ChatMessage> messages, bool add_generation_prompt,
                     const Tokenizer& tokenizer) const;

 private:
  ChatTemplate(jinja::Template parsed, std::string name)
      : template_(std::move(parsed)), name_(std::move(name)) {}

  jinja::Template template_;
  std::string name_;
};

}  // namespace freekv
