// Progress of a long prefill, of loading and of converting on standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "freekv/engine.hpp"

namespace freekv::app {

enum class ProgressUnit { kTokens, kBytes };

/// On a terminal a bar that is redrawn, with tokens/s and the time left; elsewhere a line for each
/// quarter. Nothing is shown for work of less than about a second.
class Progress {
 public:
  Progress(std::string label, int64_t total, ProgressUnit unit = ProgressUnit::kTokens);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(int64_t done);

 private:
  double elapsed() const;
  /// "120/600 tokens" and "50 tokens/s", or both in bytes.
  std::string amount(int64_t done) const;
  std::string speed(double per_second) const;

  std::string label_;
  int64_t total_;
  ProgressUnit unit_;
  std::chrono::steady_clock::time_point start_;
  bool terminal_;
  bool drawn_ = false;
  int64_t quarters_ = 0;
};

/// A bar in bytes that goes away when all are done, for Engine's constructor and convert_model().
LoadProgress progress_bar(const char* label = "loading");

}  // namespace freekv::app
