// What the benchmarks of operations share: a checked output, the best time, shares of a limit.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "backends/op_cases.hpp"
#include "device/execution_context.hpp"

namespace freekv::bench {

/// One thread, and all of the machine's.
inline std::vector<int> thread_counts() {
  const auto all = static_cast<int>(std::thread::hardware_concurrency());
  return all > 1 ? std::vector<int>{1, all} : std::vector<int>{1};
}

/// Fails the benchmark, before anything is timed, if the output is not what the reference says.
inline bool agrees(benchmark::State& state, std::span<const float> actual,
                   std::span<const float> expected, double tolerance) {
  const double error = cases::relative_error(actual, expected);
  if (error <= tolerance) return true;
  state.SkipWithError(
      ("differs from the reference by " + std::to_string(error) + ": not timed").c_str());
  return false;
}

/// Runs the benchmark's iterations and returns the seconds of the shortest, which is what the
/// shares are taken from: the machine may be doing other things too. `between` runs before, after
/// and in between, a few times, and is not timed.
template <typename Body, typename Between>
double best_iteration(benchmark::State& state, Body&& body, Between&& between) {
  using Clock = std::chrono::steady_clock;
  constexpr int kBetween = 6;
  double best = std::numeric_limits<double>::infinity();
  int64_t done = 0;
  for (auto _ : state) {
    if (done++ % std::max<int64_t>(1, state.max_iterations / kBetween) == 0) {
      between();
      body();  // warms up
    }
    const Clock::time_point start = Clock::now();
    body();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
  }
  between();
  return best;
}

template <typename Body>
double best_iteration(benchmark::State& state, Body&& body) {
  return best_iteration(state, body, [] {});
}

/// Registers body(state, args...), which sets the time of its iterations itself, for at least
/// `seconds` of them.
template <typename Body, typename... Args>
void add_benchmark(const std::string& name, double seconds, benchmark::TimeUnit unit, Body&& body,
                   Args&&... args) {
  benchmark::RegisterBenchmark(name.c_str(), std::forward<Body>(body), std::forward<Args>(args)...)
      ->UseManualTime()
      ->MinTime(seconds)
      ->Unit(unit);
}

/// What main() in op_bench.cc runs: each program defines it.
void add_benchmarks();

}  // namespace freekv::bench
