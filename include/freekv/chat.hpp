// Conversations, as chat models are given them.
#pragma once

#include <array>
#include <string>
#include <utility>

namespace freekv {

/// One turn. Roles are the model's own; "system", "user" and "assistant" are common to all.
struct ChatMessage {
  std::string role;
  std::string content;  // any bytes
};

/// The conversation of one question.
inline std::array<ChatMessage, 1> user_turn(std::string content) {
  return {{{"user", std::move(content)}}};
}

}  // namespace freekv
