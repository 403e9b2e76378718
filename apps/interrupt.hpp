// Ctrl-C as a flag, so that a generation ends with its text and statistics.
#pragma once

#include <atomic>
#include <csignal>

namespace freekv::app {

/// While one lives, the first SIGINT or SIGTERM sets the flag; the second ends the program as
/// usual, or is as good as the first. At most one at a time.
class Interrupt {
 public:
  enum class Second { kEnds, kIgnored };

  explicit Interrupt(Second second = Second::kEnds) {
    raised() = false;
    second_ends() = second == Second::kEnds;
    previous_int_ = std::signal(SIGINT, handle);
    previous_term_ = std::signal(SIGTERM, handle);
  }
  ~Interrupt() {
    std::signal(SIGINT, previous_int_);
    std::signal(SIGTERM, previous_term_);
  }
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  const std::atomic<bool>& flag() const { return raised(); }

 private:
  using Handler = void (*)(int);
  // A signal handler can reach nothing but a static.
  static std::atomic<bool>& raised() {
    static std::atomic<bool> flag{false};
    return flag;
  }
  static std::atomic<bool>& second_ends() {
    static std::atomic<bool> ends{true};
    return ends;
  }
  static void handle(int signal) {
    raised() = true;
    if (second_ends()) std::signal(signal, SIG_DFL);
  }

  Handler previous_int_;
  Handler previous_term_;
};

}  // namespace freekv::app
