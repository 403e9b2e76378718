#include "engine_flags.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

#include "freekv/error.hpp"

namespace freekv::app {

void EngineFlags::add_to(CLI::App& app, bool with_model) {
  if (with_model) {
    app.add_option("-m,--model", options.model, "GGUF file or checkpoint folder")->required();
  }
  app.add_option("--policy", options.policy,
                 "retrieval policy, NAME or NAME:key=value,... (full, streaming, quest, freekv; "
                 "auto: full while the KV fits --device-kv or the device and the context is short "
                 "enough for dense attention to be the faster, else freekv)")
      ->capture_default_str();
  app.add_option("--ctx", options.context, "most tokens of prompt and answer (0: the model's)");
  app.add_option("--rope-scaling", options.rope.scaling,
                 "stretch of RoPE: none, linear, yarn (default: the model's)");
  app.add_option("--rope-scale", options.rope.scale,
                 "factor by which linear or yarn stretches the context (0: the model's)");
  app.add_option("--rope-freq-base", options.rope.freq_base,
                 "base of RoPE's frequencies, theta (0: the model's)");
  app.add_option("--yarn-orig-ctx", options.rope.yarn_orig_ctx,
                 "tokens that the model was made for before yarn (0: the model's)");
  app.add_option("--budget", options.budget, "tokens attended per step, B")->capture_default_str();
  app.add_option("--sink", options.sink, "first tokens always attended, S")->capture_default_str();
  app.add_option("--window", options.window, "last tokens always attended, W")
      ->capture_default_str();
  app.add_option("--page", options.page, "tokens per page, p")->capture_default_str();
  app.add_option("--tau", tau, "drift threshold of freekv, the same as --policy NAME:tau=...");
  app.add_option("--threads", options.threads, "worker threads (0: all cores)");
  app.add_option("--device-kv", device_kv, "limit of the fast KV tier, such as 64MiB");
  app.add_option("--host-kv", host_kv, "limit of the slow KV tier, such as 8GiB");
  app.add_option("--kv-type", options.kv_type, "type of cached keys and values: f16, bf16, f32")
      ->capture_default_str();
  app.add_option("--activations", options.activations,
                 "of decode with quantised weights: f32, int8, or auto (int8 but for Q8_0)")
      ->capture_default_str();
  app.add_option("--backend", options.backend,
                 "cpu, cuda (an NVIDIA GPU; needs libfreekv_cuda.so), or reference (scalar, slow); "
                 "freekv info shows what is here")
      ->capture_default_str();
  app.add_option("--chunk", options.chunk, "tokens per prefill chunk on the host")
      ->capture_default_str();
}

EngineOptions EngineFlags::finish() const {
  EngineOptions result = options;
  if (!device_kv.empty()) result.device_kv = parse_size("--device-kv", device_kv);
  if (!host_kv.empty()) result.host_kv = parse_size("--host-kv", host_kv);
  if (tau) {
    result.policy += result.policy.find(':') == std::string::npos ? ':' : ',';
    result.policy += fmt::format("tau={}", *tau);
  }
  return result;
}

size_t parse_size(const std::string& option, const std::string& text) {
  struct Unit {
    std::string_view name;
    double bytes;
  };
  constexpr std::array<Unit, 11> kUnits = {{{"", 1},
                                            {"B", 1},
                                            {"KiB", 1024},
                                            {"MiB", 1048576},
                                            {"GiB", 1073741824},
                                            {"TiB", 1099511627776.0},
                                            {"K", 1024},
                                            {"M", 1048576},
                                            {"G", 1073741824},
                                            {"KB", 1e3},
                                            {"MB", 1e6}}};
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, status] = std::from_chars(text.data(), end, value);
  if (status == std::errc{} && value >= 0) {
    const std::string_view unit(rest, static_cast<size_t>(end - rest));
    for (const Unit& known : kUnits) {
      if (unit == known.name && value * known.bytes < 0x1p62) {
        return static_cast<size_t>(value * known.bytes);
      }
    }
  }
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("\"{}\" is not a size such as 64MiB, 2GiB or 4096", text), option);
}

void add_sampling_options(CLI::App& app, SamplingOptions& sampling) {
  app.add_option("--temp", sampling.temperature, "temperature (0: greedy)")->capture_default_str();
  app.add_option("--top-k", sampling.top_k, "keep the k likeliest tokens (0: off)");
  app.add_option("--top-p", sampling.top_p, "keep the likeliest tokens of this mass (1: off)");
  app.add_option("--min-p", sampling.min_p, "drop tokens below this share of the best (0: off)");
  app.add_option("--repeat-penalty", sampling.repetition_penalty,
                 "divide logits of recent tokens (1: off)");
  app.add_option("--repeat-last-n", sampling.repetition_window, "tokens the penalty looks back");
  app.add_option("--seed", sampling.seed, "seed of the sampler")->capture_default_str();
}

std::string format_bytes(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, bytes < 10 && unit > 0 ? 2 : 0, kUnits[unit]);
}

std::string format_memory(const Engine& engine, int64_t context) {
  const MemoryStats memory = engine.memory_for(context);
  std::string text =
      fmt::format("KV of {} tokens: fast tier {} on {}", format_count(context),
                  format_bytes(static_cast<double>(memory.fast_kv_bytes)), engine.device());
  if (memory.slow_kv_bytes > 0) {
    text += fmt::format(", slow tier {} of host memory",
                        format_bytes(static_cast<double>(memory.slow_kv_bytes)));
  }
  if (memory.sketch_bytes > 0) {
    text += fmt::format(", sketches {}", format_bytes(static_cast<double>(memory.sketch_bytes)));
  }
  return text;
}

std::string format_count(int64_t count) {
  const std::string digits = fmt::format("{}", count);
  const size_t sign = count < 0 ? 1 : 0;
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > sign && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

}  // namespace freekv::app
