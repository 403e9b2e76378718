// Time on the device's own clock.
#pragma once

#include <algorithm>
#include <vector>

#include "device/cuda/runtime.hpp"

namespace freekv::cuda {

/// Milliseconds of `body`, which queues work on `stream`: the median of three rounds of up to
/// `repeats`, fewer where they would take more than some seconds.
double milliseconds(cudaStream_t stream, int repeats, const auto& body) {
  constexpr double kRoundMs = 4000;
  Event start(EventUse::kTiming), end(EventUse::kTiming);
  const auto round = [&](int n) {
    start.record(stream);
    for (int i = 0; i < n; ++i) body();
    end.record(stream);
    check_cuda(cudaEventSynchronize(end), "a timed round");
    return static_cast<double>(end.since(start)) / n;
  };
  round(1);  // warms up, and captures
  const int fitting = std::max(2, static_cast<int>(kRoundMs / std::max(round(1), 1e-3)));
  std::vector<double> times;
  for (int i = 0; i < 3; ++i) times.push_back(round(std::min(repeats, fitting)));
  std::sort(times.begin(), times.end());
  return times[1];
}

}  // namespace freekv::cuda
