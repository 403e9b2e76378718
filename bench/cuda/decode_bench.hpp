// What the decode benchmarks share: options, and one timed cell of policy, context and batch.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cuda/synthetic_model.hpp"

namespace freekv::bench {

struct Options {
  std::string shape = "llama-3.1-8b";
  std::vector<std::string> policies{"full", "freekv"};
  std::vector<int64_t> contexts{32768, 131072};
  std::vector<int> batches{1};
  int64_t budget = 2048, sink = 128, window = 128;
  int page = 32;
  double resident = 1;
  float drift = 0.13f, churn = 0.25f;
  int ctas = 8;
  int steps = 64;
  int warmup = 8;  // the first steps recall whole selections
  int threads = 8;
  std::string mechanism = "gather", host_layout = "head-major";
  bool no_graph = false;
  int staging = 2;
  bool split = false;
  std::string commit;
};
nlohmann::json to_json(const Options& options);

/// A model on the device, and what limits a step of it: measured in the same run.
struct Subject {
  const NamedShape& named;
  const SyntheticModel& model;
  double weights_ms = 0;  // of reading them once
  double link_GB_s = 0;   // of a contiguous copy from pinned memory
};

/// Milliseconds of `body`, which queues work on `stream`: the median of three rounds of up to
/// `repeats`, fewer where they would take more than some seconds.
double milliseconds(cudaStream_t stream, int repeats, const auto& body) {
  constexpr double kRoundMs = 4000;
  Event start(true), end(true);
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

/// Throws Error(kInternal) unless freekv within its budget gives dense attention's logits: nothing
/// is timed before.
void check_output(const Subject& subject, const Options& options);

/// A row: time per step, bytes held and recalled, shares of what the machine can do. Throws
/// Error(kOutOfMemory) where it does not fit.
nlohmann::json measure(const Subject& subject, const Options& options, const std::string& policy,
                       int64_t context, int batch);

/// Where the time of `row` goes, from the times of steps that lack one part after the other
/// (time_split.cc); `how` says so in words.
nlohmann::json time_split(const Subject& subject, const Options& options,
                          const nlohmann::json& row);

/// From published systems' recall to ours, one change at a time; prints the table.
nlohmann::json ablation(const Subject& subject, Options options);

/// GB/s of gather() alone, by page size and CTAs; prints the table. `bar` as in its rows: whether
/// 16 KiB pages reach 45 GB/s with at most 8 CTAs.
nlohmann::json gather_table();

}  // namespace freekv::bench
