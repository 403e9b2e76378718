// Lines from a person: with editing and history on a terminal, as they come from anything else.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace freekv::app {

/// One at a time: a terminal has one state.
class LineReader {
 public:
  LineReader();
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  /// Whether somebody types at a terminal and sees the prompts.
  bool interactive() const;
  /// The next line without its end; nothing at the end of input. On a terminal Ctrl-C gives up the
  /// line: it comes back empty, and abandoned() is true until the next call.
  std::optional<std::string> read(const std::string& prompt);
  bool abandoned() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace freekv::app
