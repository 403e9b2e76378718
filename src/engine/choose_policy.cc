#include "engine/choose_policy.hpp"

#include <fmt/format.h>

#include "engine/engine_options.hpp"

namespace freekv {
namespace {

// Contexts, as multiples of the budget, up to which dense attention is taken to be the faster:
// selection reads sketches of a sixteenth to a thirty-second of the KV and costs passes of its own.
constexpr int64_t kDenseBudgetsOnHost = 2;
// Measured: on an H200 with the 8B shape and B = 2048 both take 5.0 ms at 32K.
constexpr int64_t kDenseBudgetsOnDevice = 16;

constexpr std::string_view kAuto = "auto";

}  // namespace

bool is_auto_policy(const std::string& policy) {
  return policy.substr(0, policy.find(':')) == kAuto;
}

PolicyChoice choose_policy(const EngineOptions& options, const ModelConfig& config,
                           size_t fast_bytes) {
  const std::string retrieval = "freekv" + options.policy.substr(kAuto.size());
  const CacheConfig cache = cache_config(options, config, options.context);
  const size_t dense_bytes = static_cast<size_t>(options.max_batch) *
                             static_cast<size_t>(config.layers) *
                             static_cast<size_t>(cache.max_pages()) * cache.shape.slot_bytes();
  if (dense_bytes > fast_bytes) {
    return {retrieval, fmt::format("freekv, since the KV of {} tokens takes {} bytes and the fast "
                                   "tier has {}",
                                   options.context, dense_bytes, fast_bytes)};
  }
  const int64_t budgets = options.backend == "cuda" ? kDenseBudgetsOnDevice : kDenseBudgetsOnHost;
  const int64_t longest = budgets * options.budget;
  if (options.context > longest) {
    return {retrieval,
            fmt::format("freekv, since a context of {} tokens is more than {} budgets of {}",
                        options.context, budgets, options.budget)};
  }
  return {"full", fmt::format("full, since the KV of {} tokens fits the fast tier and a context of "
                              "up to {} budgets of {} is read as fast",
                              options.context, budgets, options.budget)};
}

}  // namespace freekv
