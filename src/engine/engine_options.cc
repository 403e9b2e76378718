#include "engine/engine_options.hpp"

#include <algorithm>
#include <thread>

#include "core/check.hpp"

namespace freekv {
namespace {

DType parse_kv_type(const std::string& name) {
  if (name == "f32") return DType::kF32;
  if (name == "f16") return DType::kF16;
  if (name == "bf16") return DType::kBF16;
  fail(ErrorCode::kInvalidArgument, "kv type is \"{}\", must be f32, f16 or bf16", name);
}

}  // namespace

Activations parse_activations(const std::string& name) {
  if (name == "auto") return Activations::kAuto;
  if (name == "f32") return Activations::kF32;
  if (name == "int8") return Activations::kInt8;
  fail(ErrorCode::kInvalidArgument, "activations is \"{}\", must be auto, f32 or int8", name);
}

EngineOptions complete_options(EngineOptions options, const ModelConfig& config) {
  if (options.threads == 0) {
    options.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  const int64_t given_context = options.context;
  if (options.context == 0) options.context = config.context_length;
  check_argument(options.context >= 1 && options.context <= config.context_length,
                 "context is {}, must be 1 to the model's {}", options.context,
                 config.context_length);
  // Within its window a model sees everything, so shorter contexts are exact.
  const bool windowed = config.sliding_window > 0;
  if (given_context == 0 && windowed) {
    options.context = std::min(options.context, config.sliding_window);
  }
  check_argument(!windowed || options.context <= config.sliding_window,
                 "context is {}, the model's sliding window is {}, longer contexts of such models "
                 "are not supported",
                 options.context, config.sliding_window);
  check_argument(options.page >= 1 && options.page <= 1024, "page is {}, must be 1 to 1024",
                 options.page);
  check_argument(options.max_batch >= 1 && options.max_batch <= 4096,
                 "batch is {}, must be 1 to 4096", options.max_batch);
  check_argument(options.chunk >= 1 && options.chunk <= 1 << 16, "chunk is {}, must be 1 to 65536",
                 options.chunk);
  check_argument(options.sink >= 0, "sink is {}, must be 0 or more", options.sink);
  check_argument(options.window >= 1, "window is {}, must be 1 or more", options.window);
  check_argument(options.budget >= 1, "budget is {}, must be 1 or more", options.budget);
  return options;
}

CacheConfig cache_config(const EngineOptions& options, const ModelConfig& config, int64_t context) {
  const auto share = [&](size_t limit) {
    return limit == SIZE_MAX ? SIZE_MAX : limit / static_cast<size_t>(options.max_batch);
  };
  return {.layers = config.layers,
          .query_heads = config.query_heads,
          .shape = {.heads = config.kv_heads,
                    .head_dim = config.head_dim,
                    .page = options.page,
                    .dtype = parse_kv_type(options.kv_type)},
          .max_context = context,
          .tokens = {options.budget, options.sink, options.window},
          .fast_limit_bytes = share(options.device_kv),
          .slow_limit_bytes = share(options.host_kv)};
}

}  // namespace freekv
