// Conversations, as chat models are given them.
#pragma once

#include <string>

namespace freekv {

/// One turn. Roles are the model's own; "system", "user" and "assistant" are common to all.
struct ChatMessage {
  std::string role;
  std::string content;  // any bytes
};

}  // namespace freekv
