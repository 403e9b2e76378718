// A conversation as a file.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "freekv/chat.hpp"

namespace freekv::app {

struct Conversation {
  std::string model;               // name, as the model file gives it
  nlohmann::ordered_json options;  // what it was led with; not read back
  std::vector<ChatMessage> messages;
};

/// Writes JSON beside `path` and puts it in its place when it is whole. Bytes that are no text
/// become U+FFFD. Throws Error naming the file.
void save_conversation(const Conversation& conversation, const std::string& path);

/// Throws Error, of one line, that names the file and what is wrong in it.
Conversation load_conversation(const std::string& path);

}  // namespace freekv::app
