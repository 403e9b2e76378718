#include "progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "engine_flags.hpp"

namespace freekv::app {
namespace {

constexpr int kBarCells = 30;
constexpr double kShowAfterSeconds = 0.5;

}  // namespace

Progress::Progress(std::string label, int64_t total, ProgressUnit unit)
    : label_(std::move(label)),
      total_(std::max<int64_t>(1, total)),
      unit_(unit),
      start_(std::chrono::steady_clock::now()),
      terminal_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() {
  // The bar is gone when the text begins.
  if (drawn_ && terminal_) fmt::print(stderr, "\r\033[K");
}

double Progress::elapsed() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

std::string Progress::amount(int64_t done) const {
  if (unit_ == ProgressUnit::kTokens) return fmt::format("{}/{} tokens", done, total_);
  return fmt::format("{} of {}", format_bytes(static_cast<double>(done)),
                     format_bytes(static_cast<double>(total_)));
}

std::string Progress::speed(double per_second) const {
  if (unit_ == ProgressUnit::kTokens) return fmt::format("{:.0f} tokens/s", per_second);
  return format_bytes(per_second) + "/s";
}

void Progress::update(int64_t done) {
  const double seconds = elapsed();
  // Attention makes later tokens dearer, but a plain mean is what one expects of a bar.
  const double rate = static_cast<double>(done) / std::max(seconds, 1e-9);
  const double left = static_cast<double>(total_ - done) / std::max(rate, 1e-9);
  if (!drawn_ && (seconds < kShowAfterSeconds || left < kShowAfterSeconds)) return;
  if (terminal_) {
    const auto cells = static_cast<size_t>(kBarCells * done / total_);
    fmt::print(stderr, "\r\033[K{} [{}{}] {}  {}  {:.0f} s left", label_, std::string(cells, '#'),
               std::string(kBarCells - cells, '.'), amount(done), speed(rate), left);
    std::fflush(stderr);
  } else if (const int64_t quarters = 4 * done / total_; quarters > quarters_) {
    quarters_ = quarters;
    fmt::print(stderr, "{} {}, {}, {:.0f} s left\n", label_, amount(done), speed(rate), left);
  } else {
    return;
  }
  drawn_ = true;
}

LoadProgress progress_bar(const char* label) {
  return [label, bar = std::shared_ptr<Progress>()](size_t done, size_t total) mutable {
    if (!bar) bar = std::make_shared<Progress>(label, total, ProgressUnit::kBytes);
    bar->update(static_cast<int64_t>(done));
    if (done == total) bar.reset();
    return true;
  };
}

}  // namespace freekv::app
