// The shortest of several runs: on a machine that others use too, the one least disturbed.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>

namespace freekv::bench {

template <typename Body>
double fastest(int passes, Body&& body) {
  using Clock = std::chrono::steady_clock;
  double seconds = std::numeric_limits<double>::infinity();
  for (int i = 0; i <= passes; ++i) {  // one more: the first warms up
    const Clock::time_point start = Clock::now();
    body();
    const double took = std::chrono::duration<double>(Clock::now() - start).count();
    if (i > 0) seconds = std::min(seconds, took);
  }
  return seconds;
}

}  // namespace freekv::bench
