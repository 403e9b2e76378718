// Prefill on a GPU with the shapes of known models and weights made up on the device: the whole
// prompt as the engine runs it, its rate counted on the arithmetic that the model asks for.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "backends/cuda/prefill.hpp"
#include "cuda/synthetic_model.hpp"

namespace freekv::bench {
namespace {

struct Options {
  std::string shape = "llama-3.1-8b";
  std::vector<std::string> policies{"freekv"};
  std::vector<int64_t> tokens{8192, 131072};
  int64_t budget = 2048, sink = 128, window = 128;
  int page = 32;
  int chunk = 8192;
  int rounds = 3;
  int threads = 8;
  std::string json;
};

RetrievalRule rule_of(const std::string& policy) {
  if (policy == "full") return {};
  check_argument(policy == "freekv", "policy is \"{}\", must be full or freekv", policy);
  return {.budgeted = true, .slow = true, .selects = true, .speculative = true};
}

Decoder make_decoder(const NamedShape& named, const SyntheticModel& model, const Options& options,
                     const std::string& policy, int64_t room) {
  const TokenBudget tokens{options.budget, options.sink, options.window};
  return Decoder(named.shape, model.weights(), rule_of(policy),
                 page_map(named.shape, tokens, 1.0, room), {1, room, options.threads});
}

std::vector<int32_t> prompt_of(int64_t tokens, int32_t vocab) {
  std::vector<int32_t> ids;
  uint32_t state = 1;
  for (int64_t i = 0; i < tokens; ++i) {
    state = state * 1664525u + 1013904223u;
    ids.push_back(static_cast<int32_t>((state >> 8) % static_cast<uint32_t>(vocab)));
  }
  return ids;
}

std::vector<float> step(Decoder& decoder, int32_t sequence, int32_t id, int32_t vocab) {
  decoder.step({{sequence}}, {{id}});
  std::vector<float> logits(static_cast<size_t>(vocab));
  check_cuda(cudaMemcpyAsync(logits.data(), decoder.logits(), logits.size() * sizeof(float),
                             cudaMemcpyDeviceToHost, decoder.stream()),
             "the logits");
  check_cuda(cudaStreamSynchronize(decoder.stream()), "a step");
  return logits;
}

double distance(const std::vector<float>& actual, const std::vector<float>& expected) {
  double squares = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    squares += std::pow(static_cast<double>(actual[i]) - expected[i], 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(squares / size);
}

/// Before anything is timed: a prompt in one pass gives the logits that its tokens give one by one,
/// and decoding goes on from it.
void check_output(const NamedShape& named, const SyntheticModel& model, const Options& options,
                  const std::string& policy) {
  const int64_t tokens = 300, room = options.budget + 4 * options.page;
  const int32_t vocab = named.shape.vocab;
  const std::vector<int32_t> ids = prompt_of(tokens + 1, vocab);
  Decoder decoder = make_decoder(named, model, options, policy, room);
  const int32_t sequence = decoder.open(room);
  decoder.begin(sequence, 0);
  std::vector<float> expected;
  std::vector<float> next;
  for (int64_t i = 0; i <= tokens; ++i) {
    expected = std::exchange(next, step(decoder, sequence, ids[static_cast<size_t>(i)], vocab));
  }
  // Several chunks, so that a later one reads what an earlier one left.
  Prefill prefill(named.shape, model.weights(), {4 * options.page, tokens});
  std::vector<float> actual(expected.size());
  prefill.run(decoder, sequence, std::span(ids).first(static_cast<size_t>(tokens)), {},
              actual.data());
  const double of_prompt = distance(actual, expected);
  const double of_step = distance(step(decoder, sequence, ids.back(), vocab), next);
  // bf16 between the products of every layer, against f32; what it costs grows with the depth.
  const double allowed = 0.05;
  if (!(of_prompt <= allowed && of_step <= allowed)) {
    fail(ErrorCode::kInternal,
         "{}: logits of a prompt differ by {:.4f} from its tokens one by one, of the next step by "
         "{:.4f}: nothing is timed",
         policy, of_prompt, of_step);
  }
  fmt::print("{}: logits differ by {:.4f} from step by step, those of the next step by {:.4f}\n",
             policy, of_prompt, of_step);
}

/// Multiplications and additions of the model's products and its causal attention. Of the last
/// layer only what the last chunk needs is computed, and counted.
double operations(const DecoderShape& s, int64_t tokens, int64_t chunk) {
  const auto t = static_cast<double>(tokens);
  const int64_t rest = (tokens - 1) % chunk + 1;
  const auto last = static_cast<double>(rest);
  const double hidden = s.hidden, ffn = s.ffn;
  const double q = static_cast<double>(s.kv.query_heads()) * s.kv.head_dim;
  const double kv = static_cast<double>(s.kv.kv_heads) * s.kv.head_dim;
  const double project = 2 * hidden * (q + 2 * kv);
  const double others = 2 * hidden * q + 2 * 3 * hidden * ffn;
  const double layer = t * (project + others) + 4 * q * t * t / 2;
  const double last_layer =
      t * project + last * others + 4 * q * (last * (t - last) + last * last / 2);
  return (s.layers - 1) * layer + last_layer + 2 * hidden * s.vocab;
}

size_t used_device_bytes() {
  size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return total - free;
}

nlohmann::json measure(const NamedShape& named, const SyntheticModel& model, const Options& options,
                       const std::string& policy, int64_t tokens) {
  const int64_t room = tokens + 64;
  Decoder decoder = make_decoder(named, model, options, policy, room);
  const int32_t sequence = decoder.open(room);
  Prefill prefill(named.shape, model.weights(), {options.chunk, tokens});
  const std::vector<int32_t> ids = prompt_of(tokens, named.shape.vocab);
  std::vector<float> logits(static_cast<size_t>(named.shape.vocab));
  size_t peak = 0;
  std::vector<double> times;
  // The first round loads kernels and chooses algorithms. Long ones are not repeated.
  const int rounds = tokens > 100000 ? 1 : options.rounds;
  const std::vector<int32_t> warm(ids.begin(), ids.begin() + std::min<int64_t>(tokens, 1024));
  prefill.run(decoder, sequence, warm, {}, logits.data());
  for (int i = 0; i < rounds; ++i) {
    const auto look = [&](int64_t) {
      if (i == 0 && peak == 0) peak = used_device_bytes();
      return true;
    };
    const auto start = std::chrono::steady_clock::now();
    prefill.run(decoder, sequence, ids, look, logits.data());
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    times.push_back(took.count());
  }
  std::sort(times.begin(), times.end());
  const double ms = times[times.size() / 2];
  const bool finite =
      std::all_of(logits.begin(), logits.end(), [](float value) { return std::isfinite(value); });
  check_internal(finite, "{} of {} tokens: {} logits are not all finite", policy, tokens,
                 logits.size());
  const double count = operations(named.shape, tokens, options.chunk);
  return {{"shape", named.name},
          {"weights", "synthetic"},
          {"policy", policy},
          {"tokens", tokens},
          {"chunk", options.chunk},
          {"prefill_ms", ms},
          {"tokens_per_s", static_cast<double>(tokens) / ms * 1e3},
          {"operations", count},
          {"TFLOP_s", count / ms * 1e-9},
          {"peak_device_bytes", peak},
          {"prefill_bytes", prefill.bytes(tokens)},
          {"slow_kv_bytes", decoder.footprint(room).slow}};
}

int run(const Options& options) {
  NamedShape shape = find_shape(options.shape);
  shape.shape.kv.page = options.page;
  Stream stream;
  const SyntheticModel model(shape, stream);
  stream.synchronize();
  for (const std::string& policy : options.policies) check_output(shape, model, options, policy);
  fmt::print("{:<10} {:>9} {:>11} {:>10} {:>9} {:>12}\n", "policy", "tokens", "ms", "tokens/s",
             "TFLOP/s", "peak MiB");
  nlohmann::json rows = nlohmann::json::array();
  for (const int64_t tokens : options.tokens) {
    for (const std::string& policy : options.policies) {
      try {
        rows.push_back(measure(shape, model, options, policy, tokens));
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kOutOfMemory) throw;
        fmt::print("{:<10} {:>9} {}\n", policy, tokens, error.what());
        continue;
      }
      const auto& row = rows.back();
      fmt::print("{:<10} {:>9} {:>11.1f} {:>10.0f} {:>9.0f} {:>12}\n", policy, tokens,
                 row["prefill_ms"].get<double>(), row["tokens_per_s"].get<double>(),
                 row["TFLOP_s"].get<double>(), row["peak_device_bytes"].get<size_t>() >> 20);
      std::fflush(stdout);
    }
  }
  if (!options.json.empty()) std::ofstream(options.json) << rows.dump(1) << "\n";
  return 0;
}

}  // namespace
}  // namespace freekv::bench

int main(int argc, char** argv) {
  using freekv::bench::Options;
  Options options;
  CLI::App app("Prefill on a GPU with synthetic weights of known shapes");
  app.add_option("--shape", options.shape,
                 "llama-3.1-8b, qwen2.5-7b, qwen2.5-14b, qwen3-8b, llama-3.2-1b or tiny")
      ->capture_default_str();
  app.add_option("--policy", options.policies, "full, freekv")->delimiter(',');
  app.add_option("--tokens", options.tokens, "lengths of the prompts")->delimiter(',');
  app.add_option("--chunk", options.chunk, "tokens computed together")->capture_default_str();
  app.add_option("--budget", options.budget, "tokens attended per step")->capture_default_str();
  app.add_option("--sink", options.sink)->capture_default_str();
  app.add_option("--window", options.window)->capture_default_str();
  app.add_option("--page", options.page)->capture_default_str();
  app.add_option("--rounds", options.rounds, "of which the median counts")->capture_default_str();
  app.add_option("--json", options.json, "file for the rows");
  CLI11_PARSE(app, argc, argv);
  try {
    return freekv::bench::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "cuda_prefill: {}\n", error.what());
    return 1;
  }
}
