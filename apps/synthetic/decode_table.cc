// Time per token of policies at contexts and batches.
#include <fmt/format.h>

#include <cstdio>

#include "freekv/error.hpp"
#include "synthetic/tables.hpp"

namespace freekv::app {
namespace {

void print_row(const nlohmann::json& row) {
  fmt::print("{:<10} {:>9} {:>6} {:>10.3f} {:>10.2f} {:>6.0f} % {:>14.1f} {:>12.1f} {:>6.0f} %",
             row["policy"].get<std::string>(), row["context"].get<int64_t>(),
             row["batch"].get<int>(), row["decode_ms"].get<double>(),
             row["ratio_to_weights"].get<double>(), 100 * row["read_share"].get<double>(),
             row["bytes_recalled_per_step"].get<double>() / (1 << 20),
             row["recall_GB_s"].get<double>(), 100 * row["link_share"].get<double>());
  if (row.contains("split")) {
    const nlohmann::json& split = row["split"];
    const double weights = split["weights_ms"];
    fmt::print("   {:.2f} + {:.2f} + {:.2f} + {:.2f} + {:.2f}", weights,
               split["rest_ms"].get<double>() - weights, split["attention_ms"].get<double>(),
               split["selection_ms"].get<double>(), split["recall_ms"].get<double>());
  }
  fmt::print("\n");
  std::fflush(stdout);
}

}  // namespace

void decode_table(const Subject& subject, const SyntheticOptions& options, Results& results) {
  check_decode(subject, options);
  fmt::print(
      "{:<10} {:>9} {:>6} {:>10} {:>10} {:>8} {:>14} {:>12} {:>8}{}\n", "policy", "context",
      "batch", "ms/token", "x weights", "HBM", "MiB recalled", "GB/s recall", "link",
      options.split ? "   ms: weights + rest + attention + selection + waiting for recall" : "");
  for (const int64_t context : options.contexts) {
    for (const int batch : options.batches) {
      for (const std::string& policy : options.policies) {
        try {
          nlohmann::json row = measure(subject, options, policy, context, batch);
          if (options.split) row["split"] = time_split(subject, options, row);
          print_row(row);
          results.add(std::move(row));
        } catch (const Error& error) {
          if (error.code() != ErrorCode::kOutOfMemory) throw;
          fmt::print("{:<10} {:>9} {:>6} {}\n", policy, context, batch, error.what());
        }
      }
    }
  }
}

}  // namespace freekv::app
