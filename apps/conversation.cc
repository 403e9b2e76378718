#include "conversation.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "freekv/error.hpp"
#include "read_file.hpp"

namespace freekv::app {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "freekv conversation 1";

void write_all(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(file, text.data(), text.size());
    if (written < 0 && errno != EINTR) throw Error(ErrorCode::kIo, std::strerror(errno));
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
  }
}

// So that a crash or a full disk leaves either the old file or the new one.
void write_atomically(const std::string& path, std::string_view text) {
  const std::string part = fmt::format("{}.{}.part", path, getpid());
  const int file = ::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) throw Error(ErrorCode::kIo, std::strerror(errno), path);
  try {
    write_all(file, text);
    if (::fsync(file) != 0) throw Error(ErrorCode::kIo, std::strerror(errno));
    if (std::rename(part.c_str(), path.c_str()) != 0) {
      throw Error(ErrorCode::kIo, std::strerror(errno));
    }
  } catch (const Error& error) {
    ::close(file);
    std::remove(part.c_str());
    throw Error(error.code(), error.message(), path);
  }
  ::close(file);
}

std::string text_field(const Json& object, const char* name, const std::string& what,
                       const std::string& path) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  if (!object.is_object() || found == object.end() || !found->is_string()) {
    throw Error(ErrorCode::kParse, fmt::format("{} must have the string \"{}\"", what, name), path);
  }
  return *found;
}

}  // namespace

void save_conversation(const Conversation& conversation, const std::string& path) {
  Json messages = Json::array();
  for (const ChatMessage& message : conversation.messages) {
    messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  const Json json = {{"format", kFormat},
                     {"model", conversation.model},
                     {"options", conversation.options},
                     {"messages", std::move(messages)}};
  write_atomically(path, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

Conversation load_conversation(const std::string& path) {
  const Json json = Json::parse(read_file(path), nullptr, false);
  if (json.is_discarded()) throw Error(ErrorCode::kParse, "is not JSON", path);
  if (text_field(json, "format", "a conversation", path) != kFormat) {
    throw Error(ErrorCode::kParse, fmt::format("\"format\" must be \"{}\"", kFormat), path);
  }
  Conversation conversation;
  conversation.model = text_field(json, "model", "a conversation", path);
  const auto messages = json.find("messages");
  if (messages == json.end() || !messages->is_array()) {
    throw Error(ErrorCode::kParse, "a conversation must have the list \"messages\"", path);
  }
  for (const Json& message : *messages) {
    const std::string what = fmt::format("message {}", conversation.messages.size() + 1);
    conversation.messages.push_back(
        {text_field(message, "role", what, path), text_field(message, "content", what, path)});
  }
  return conversation;
}

}  // namespace freekv::app
