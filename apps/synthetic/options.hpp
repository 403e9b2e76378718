// What `freekv bench --shape` is asked for: the options that it alone has, and those it shares with
// the benchmark of a model.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace freekv::app {

enum class SyntheticMode : uint8_t { kDecode, kAblation, kPrefill, kGather };

struct SyntheticOptions {
  SyntheticMode mode = SyntheticMode::kDecode;
  std::string shape;
  std::vector<std::string> policies;
  std::vector<int64_t> contexts;
  std::vector<int> batches;
  int64_t budget = 2048, sink = 128, window = 128;
  int page = 32;
  std::string kv_type = "bf16";
  int threads = 0;
  int64_t steps = 64, warmup = 8;
  std::string json;

  double drift = 0.13, churn = 0.25;
  int ctas = 8;
  std::string mechanism = "gather", host_layout = "head-major";
  int staging = 2;
  bool no_graph = false;
  bool split = false, ablation = false, gather_table = false;
  std::vector<int64_t> prefill;
  int chunk = 8192;
  int rounds = 3;
  std::string commit;

  /// Adds the options that are for synthetic shapes only.
  void add_to(CLI::App& command);
  /// Whether one that begins such a benchmark was given. Throws Error(kInvalidArgument) where only
  /// others were, which mean nothing to the benchmark of a model.
  bool asked(const CLI::App& command) const;
  /// With the shared options filled in: sets the mode and the defaults that depend on it. Throws
  /// Error(kInvalidArgument), naming option and values, for what does not go together.
  void finish(const CLI::App& command);
};

}  // namespace freekv::app
