// Progress of a long prefill on standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace freekv::app {

/// On a terminal a bar that is redrawn, with tokens/s and the time left; elsewhere a line for each
/// quarter. Nothing is shown for work of less than about a second.
class Progress {
 public:
  Progress(std::string label, int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(int64_t done);

 private:
  double elapsed() const;

  std::string label_;
  int64_t total_;
  std::chrono::steady_clock::time_point start_;
  bool terminal_;
  bool drawn_ = false;
  int64_t quarters_ = 0;
};

}  // namespace freekv::app
