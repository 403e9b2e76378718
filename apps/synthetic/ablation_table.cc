// The steps from published systems' recall to this one, each timed.
#include <fmt/format.h>

#include <cstdio>

#include "synthetic/tables.hpp"

namespace freekv::app {
namespace {

struct Stage {
  const char* name;
  const char* policy;
  const char* mechanism;
  const char* layout;
  int staging;
  bool graph;
};

// Each differs from the one before it in what its name says.
constexpr Stage kStages[] = {
    {"per page, token-major, blocking", "blocking", "per-page", "token-major", 1, false},
    {"+ head-major host layout", "blocking", "per-page", "head-major", 1, false},
    {"+ streamed, one staging buffer", "blocking", "streamed", "head-major", 1, false},
    {"+ double buffer", "blocking", "streamed", "head-major", 2, false},
    {"+ speculation", "freekv", "streamed", "head-major", 2, false},
    {"+ gather kernel", "freekv", "gather", "head-major", 2, false},
    {"+ graph", "freekv", "gather", "head-major", 2, true}};

}  // namespace

void ablation_table(const Subject& subject, SyntheticOptions options, Results& results) {
  check_decode(subject, options);
  const int64_t context = options.contexts.front();
  const int batch = options.batches.front();
  fmt::print("{} tokens, batch {}, sink {}, window {}, budget {}, drift {}, churn {}\n", context,
             batch, options.sink, options.window, options.budget, options.drift, options.churn);
  fmt::print("{:<34} {:>10} {:>9} {:>14} {:>12}\n", "", "ms/token", "factor", "MiB recalled",
             "GB/s recall");
  double first = 0;
  for (const Stage& stage : kStages) {
    options.mechanism = stage.mechanism;
    options.host_layout = stage.layout;
    options.staging = stage.staging;
    options.no_graph = !stage.graph;
    nlohmann::json row = measure(subject, options, stage.policy, context, batch);
    const double ms = row["decode_ms"];
    if (first == 0) first = ms;
    row["stage"] = stage.name;
    row["factor"] = first / ms;
    row["budget"] = options.budget;
    row["sink"] = options.sink;
    row["window"] = options.window;
    fmt::print("{:<34} {:>10.3f} {:>8.1f}x {:>14.1f} {:>12.1f}\n", stage.name, ms, first / ms,
               row["bytes_recalled_per_step"].get<double>() / (1 << 20),
               row["recall_GB_s"].get<double>());
    std::fflush(stdout);
    results.add(std::move(row));
  }
}

}  // namespace freekv::app
