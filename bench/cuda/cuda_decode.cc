// Decode on a GPU with the shapes of known models, weights and KV made up on the device: the whole
// step as the engine runs it, against the time of reading the weights once in the same run. Drift
// of queries and turnover of selected pages, which random weights do not have, are forced.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "cuda/synthetic_model.hpp"

namespace freekv::bench {
namespace {

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
  int threads = 8;
  std::string json;
};

RetrievalRule rule_of(const std::string& policy, const Options& options) {
  RetrievalRule rule;
  rule.gather_ctas = options.ctas;
  rule.forced_churn = options.churn;
  if (policy == "full") return rule;
  rule.selects = true;
  if (policy == "quest") return rule;
  rule.budgeted = rule.slow = true;
  if (policy == "blocking") return rule;
  rule.speculative = true;
  rule.forced_drift = options.drift;
  check_argument(policy == "freekv", "policy is \"{}\", must be full, quest, blocking or freekv",
                 policy);
  return rule;
}

PageMap map_of(const DecoderShape& shape, const Options& options, int64_t context) {
  return page_map(shape, {options.budget, options.sink, options.window}, options.resident, context);
}

void fill_cache(Decoder& decoder, const DecoderShape& shape, int32_t sequence, int64_t tokens) {
  for (int32_t l = 0; l < shape.layers; ++l) {
    const SequenceLayer& layer = decoder.layer(sequence, l);
    const int64_t pages = (tokens + shape.kv.page - 1) / shape.kv.page;
    fill_random_pages(shape.kv, !layer.budgeted, layer.budgeted ? layer.slow : layer.fast, pages,
                      static_cast<uint64_t>(1 + sequence * shape.layers + l), 1.0f,
                      decoder.stream());
  }
  decoder.begin(sequence, tokens);
}

std::vector<float> logits_of(Decoder& decoder, int64_t count) {
  std::vector<float> host(static_cast<size_t>(count));
  check_cuda(cudaMemcpyAsync(host.data(), decoder.logits(), host.size() * sizeof(float),
                             cudaMemcpyDeviceToHost, decoder.stream()),
             "the logits");
  check_cuda(cudaStreamSynchronize(decoder.stream()), "a step");
  return host;
}

/// Before anything is timed: in a context within the budget, freekv is dense attention; both must
/// give the same logits.
void check_output(const NamedShape& named, const SyntheticModel& model, const Options& options) {
  const int64_t context = std::min<int64_t>(options.budget, 1024);
  std::vector<std::vector<float>> logits;
  for (const char* policy : {"full", "freekv"}) {
    // One page more than the budget may hold, so that the layers are built to retrieve.
    const int64_t room = options.budget + 4 * options.page;
    Decoder decoder(named.shape, model.weights(), rule_of(policy, options),
                    map_of(named.shape, options, room), {1, room, options.threads});
    const int32_t sequence = decoder.open(room);
    fill_cache(decoder, named.shape, sequence, context - 8);
    for (int32_t i = 0; i < 8; ++i) decoder.step({{sequence}}, {{7 + i}});
    logits.push_back(logits_of(decoder, named.shape.vocab));
  }
  double difference = 0, size = 0;
  for (size_t i = 0; i < logits[0].size(); ++i) {
    difference = std::max<double>(difference, std::abs(logits[0][i] - logits[1][i]));
    size = std::max<double>(size, std::abs(logits[0][i]));
  }
  const bool same = std::isfinite(size) && size > 0 && difference <= 1e-2 * size;
  if (!same) {
    fail(ErrorCode::kInternal,
         "freekv within its budget differs from dense attention by {} of {}: nothing is timed",
         difference, size);
  }
}

double milliseconds(cudaStream_t stream, int repeats, const auto& body) {
  Event start(true), end(true);
  body();  // warms up, and captures
  std::vector<double> times;
  for (int round = 0; round < 3; ++round) {
    start.record(stream);
    for (int i = 0; i < repeats; ++i) body();
    end.record(stream);
    check_cuda(cudaEventSynchronize(end), "a timed round");
    times.push_back(end.since(start) / repeats);
  }
  std::sort(times.begin(), times.end());
  return times[1];
}

nlohmann::json measure(const NamedShape& named, const SyntheticModel& model, const Options& options,
                       const std::string& policy, int64_t context, int batch, double weights_ms) {
  const int64_t room = context + 4 * options.steps + 64;
  const PageMap map = map_of(named.shape, options, room);
  Decoder decoder(named.shape, model.weights(), rule_of(policy, options), map,
                  {batch, room, options.threads});
  const Decoder::Footprint size = decoder.footprint(room);
  fmt::print(stderr, "{} {} x {}: {} MiB fast, {} MiB host, {} MiB sketches\n", policy, context,
             batch, (size.fast * batch) >> 20, (size.slow * batch) >> 20,
             (size.sketch * batch) >> 20);
  std::vector<int32_t> sequences, ids;
  for (int b = 0; b < batch; ++b) {
    sequences.push_back(decoder.open(room));
    fill_cache(decoder, named.shape, sequences.back(), context);
    ids.push_back(11 + b);
  }
  // The first steps recall whole selections.
  for (int i = 0; i < 8; ++i) decoder.step(sequences, ids);
  const RowCounters before = decoder.counters(sequences[0]);
  const double ms =
      milliseconds(decoder.stream(), options.steps, [&] { decoder.step(sequences, ids); });
  RowCounters after = decoder.counters(sequences[0]);
  const double steps = 3.0 * options.steps + 1;
  const double missed = static_cast<double>(after.misses_before + after.misses_after -
                                            before.misses_before - before.misses_after);
  const double page_bytes = 2.0 * static_cast<double>(named.shape.kv.head_page());
  const std::vector<float> logits = logits_of(decoder, named.shape.vocab);
  const bool finite =
      std::all_of(logits.begin(), logits.end(), [](float value) { return std::isfinite(value); });
  check_internal(finite, "{} at {} tokens: {} logits are not all finite", policy, context,
                 logits.size());
  return {{"shape", named.name},
          {"weights", "synthetic"},
          {"policy", policy},
          {"context", context},
          {"batch", batch},
          {"decode_ms", ms},
          {"weights_ms", weights_ms},
          {"ratio_to_weights", ms / weights_ms},
          {"fast_kv_bytes", size.fast * static_cast<size_t>(batch)},
          {"slow_kv_bytes", size.slow * static_cast<size_t>(batch)},
          {"sketch_bytes", size.sketch * static_cast<size_t>(batch)},
          {"bytes_recalled_per_step", batch * missed * page_bytes / steps},
          {"recall_GB_s", batch * missed * page_bytes / steps / ms * 1e-6},
          {"drift_rate", after.tested > before.tested
                             ? static_cast<double>(after.drifted - before.drifted) /
                                   static_cast<double>(after.tested - before.tested)
                             : 0.0}};
}

int run(const Options& options) {
  NamedShape shape = find_shape(options.shape);
  shape.shape.kv.page = options.page;

  Stream stream;
  const SyntheticModel model(shape, stream);
  stream.synchronize();
  check_output(shape, model, options);
  const DeviceBuffer sink = device_array<uint32_t>(1);
  const double weights_ms = milliseconds(stream, 10, [&] {
    read_once(model.values().data(), model.values().bytes() / 16 * 16, sink.as<uint32_t>(), stream);
  });
  fmt::print("{}: weights {:.2f} GB, read once in {:.3f} ms ({:.0f} GB/s)\n", shape.name,
             static_cast<double>(model.values().bytes()) * 1e-9, weights_ms,
             static_cast<double>(model.values().bytes()) / weights_ms * 1e-6);
  fmt::print("{:<10} {:>9} {:>6} {:>10} {:>11} {:>14} {:>12}\n", "policy", "context", "batch",
             "ms/token", "x weights", "MiB recalled", "GB/s recall");
  nlohmann::json rows = nlohmann::json::array();
  for (const int64_t context : options.contexts) {
    for (const int batch : options.batches) {
      for (const std::string& policy : options.policies) {
        try {
          rows.push_back(measure(shape, model, options, policy, context, batch, weights_ms));
        } catch (const Error& error) {
          if (error.code() != ErrorCode::kOutOfMemory) throw;
          fmt::print("{:<10} {:>9} {:>6} {}\n", policy, context, batch, error.what());
          continue;
        }
        const auto& row = rows.back();
        fmt::print("{:<10} {:>9} {:>6} {:>10.3f} {:>11.2f} {:>14.1f} {:>12.1f}\n", policy, context,
                   batch, row["decode_ms"].get<double>(), row["ratio_to_weights"].get<double>(),
                   row["bytes_recalled_per_step"].get<double>() / (1 << 20),
                   row["recall_GB_s"].get<double>());
        std::fflush(stdout);
      }
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
  CLI::App app("Decode on a GPU with synthetic weights of known shapes");
  app.add_option("--shape", options.shape,
                 "llama-3.1-8b, qwen2.5-7b, qwen2.5-14b, qwen3-8b, llama-3.2-1b or tiny")
      ->capture_default_str();
  app.add_option("--policies", options.policies, "full, quest, blocking, freekv")->delimiter(',');
  app.add_option("--contexts", options.contexts, "tokens in the cache")->delimiter(',');
  app.add_option("--batches", options.batches, "sequences decoded together")->delimiter(',');
  app.add_option("--budget", options.budget, "tokens attended per step")->capture_default_str();
  app.add_option("--sink", options.sink)->capture_default_str();
  app.add_option("--window", options.window)->capture_default_str();
  app.add_option("--page", options.page)->capture_default_str();
  app.add_option("--resident", options.resident, "resident pages as a multiple of those selected")
      ->capture_default_str();
  app.add_option("--drift", options.drift, "share of heads that drift; negative: by cosine")
      ->capture_default_str();
  app.add_option("--churn", options.churn,
                 "share of the selected pages that are new; negative: by score")
      ->capture_default_str();
  app.add_option("--ctas", options.ctas, "CTAs of a gather")->capture_default_str();
  app.add_option("--steps", options.steps, "steps in each of three rounds")->capture_default_str();
  app.add_option("--json", options.json, "file for the rows");
  CLI11_PARSE(app, argc, argv);
  try {
    return freekv::bench::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "cuda_decode: {}\n", error.what());
    return 1;
  }
}
