// The rate of reading prompts.
#include <fmt/format.h>

#include <cstdio>

#include "freekv/error.hpp"
#include "synthetic/tables.hpp"

namespace freekv::app {
namespace {

/// Multiplications and additions of the model's products and its causal attention. Of the last
/// layer only what the last chunk needs is computed, and counted.
double operations(const SyntheticShape& s, int64_t tokens, int64_t chunk) {
  const auto t = static_cast<double>(tokens);
  const int64_t rest = (tokens - 1) % chunk + 1;
  const auto last = static_cast<double>(rest);
  const double hidden = s.hidden, ffn = s.ffn;
  const double q = static_cast<double>(s.query_heads) * s.kv.head_dim;
  const double kv = static_cast<double>(s.kv.heads) * s.kv.head_dim;
  const double project = 2 * hidden * (q + 2 * kv);
  const double others = 2 * hidden * q + 2 * 3 * hidden * ffn;
  const double layer = t * (project + others) + 4 * q * t * t / 2;
  const double last_layer =
      t * project + last * others + 4 * q * (last * (t - last) + last * last / 2);
  return (s.layers - 1) * layer + last_layer + 2 * hidden * s.vocab;
}

nlohmann::json measure_prefill(const Subject& subject, const SyntheticOptions& options,
                               const std::string& policy, int64_t tokens) {
  const BenchCache cache = cache_of(options, policy, tokens + 64);
  const PrefillRun run{
      .tokens = tokens, .chunk = options.chunk, .rounds = tokens > 100000 ? 1 : options.rounds};
  const PrefillTimes times = subject.model.time_prefill(cache, run);
  const double count = operations(subject.shape, tokens, options.chunk);
  return {{"shape", options.shape},
          {"weights", "synthetic"},
          {"policy", policy},
          {"tokens", tokens},
          {"chunk", options.chunk},
          {"prefill_ms", times.ms},
          {"tokens_per_s", static_cast<double>(tokens) / times.ms * 1e3},
          {"operations", count},
          {"TFLOP_s", count / times.ms * 1e-9},
          {"peak_device_bytes", times.peak_device_bytes},
          {"prefill_bytes", times.prefill_bytes},
          {"slow_kv_bytes", times.slow_kv_bytes}};
}

}  // namespace

void prefill_table(const Subject& subject, const SyntheticOptions& options, Results& results) {
  for (const std::string& policy : options.policies) {
    const BenchModel::PrefillDifference difference =
        subject.model.check_prefill(cache_of(options, policy, options.budget + 4 * options.page));
    fmt::print(
        "checked: {}: logits of a prompt differ by {:.4f} from its tokens one by one, those "
        "of the next step by {:.4f}\n",
        policy, difference.of_prompt, difference.of_next_step);
  }
  fmt::print("{:<10} {:>9} {:>11} {:>10} {:>9} {:>12}\n", "policy", "tokens", "ms", "tokens/s",
             "TFLOP/s", "peak MiB");
  for (const int64_t tokens : options.prefill) {
    for (const std::string& policy : options.policies) {
      try {
        nlohmann::json row = measure_prefill(subject, options, policy, tokens);
        fmt::print("{:<10} {:>9} {:>11.1f} {:>10.0f} {:>9.0f} {:>12}\n", policy, tokens,
                   row["prefill_ms"].get<double>(), row["tokens_per_s"].get<double>(),
                   row["TFLOP_s"].get<double>(), row["peak_device_bytes"].get<size_t>() >> 20);
        std::fflush(stdout);
        results.add(std::move(row));
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kOutOfMemory) throw;
        fmt::print("{:<10} {:>9} {}\n", policy, tokens, error.what());
      }
    }
  }
}

}  // namespace freekv::app
