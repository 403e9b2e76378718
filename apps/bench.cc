// freekv bench: prefill and decode speed over policies, contexts and batches, of a model or (in
// synthetic/) of a known model's shape.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "engine_flags.hpp"
#include "exit_code.hpp"
#include "freekv/engine.hpp"
#include "interrupt.hpp"
#include "progress.hpp"
#include "read_file.hpp"
#include "report.hpp"
#include "synthetic/bench.hpp"
#include "table.hpp"

namespace freekv::app {
namespace {

struct BenchOptions {
  EngineFlags engine;
  std::vector<std::string> policies = {"full", "freekv"};
  std::vector<int64_t> contexts = {4096, 16384};
  std::vector<int> batches = {1};
  std::string text = "models/demo_document.txt";
  std::string json;
  int64_t prefill_tokens = 2048;
  int64_t steps = 64;
  int64_t warmup = 8;
  SyntheticOptions synthetic;
};

struct Row {
  std::string policy;
  int64_t context = 0;
  int batch = 0;
  double prefill_tok_s = 0;
  double decode_ms = 0;  // of one step of the whole batch, median
  MemoryStats memory;
  RetrievalStats stats;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

/// `count` tokens of running text: the file's, over and over.
std::vector<int32_t> running_text(const Engine& engine, const std::string& path, int64_t count) {
  const std::vector<int32_t> once = engine.encode(read_file(path), false);
  if (once.empty()) throw Error(ErrorCode::kInvalidArgument, "has no text to bench with", path);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = once[i % once.size()];
  return tokens;
}

int32_t greedy(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// A device is fast enough for every row to prefill, and be measured on, its whole context.
bool on_device(const Engine& engine) { return engine.device() != engine.options().backend; }

/// Prefills densely what the rows of one context share: all but the tokens each row prefills
/// itself. Null when a row's prefill is the whole context.
std::unique_ptr<Sequence> shared_prefix(Engine& dense, std::span<const int32_t> tokens,
                                        int64_t count, const Interrupt& interrupt) {
  if (count == 0) return nullptr;
  auto sequence = dense.new_sequence(count);
  Progress progress(fmt::format("prefill of {}", tokens.size()), count);
  dense.prefill(*sequence, tokens.first(static_cast<size_t>(count)), [&](int64_t done) {
    progress.update(done);
    return !interrupt.flag();
  });
  return sequence;
}

Row bench_row(Engine& engine, std::span<const int32_t> tokens, int batch, const Sequence* prefix,
              const BenchOptions& options, const Interrupt& interrupt) {
  const auto context = static_cast<int64_t>(tokens.size());
  Row row;
  row.policy = engine.options().policy;
  row.context = context;
  row.batch = batch;
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::vector<Sequence*> batch_of;
  std::vector<int32_t> next;
  for (int b = 0; b < batch; ++b) {
    sequences.push_back(engine.new_sequence(context + options.warmup + options.steps));
    // Only computed chunks count: the clock starts when the copied ones are in.
    const int64_t copied = prefix ? prefix->tokens() : 0;
    double start = now();
    engine.prefill(
        *sequences.back(), tokens,
        [&](int64_t done) {
          if (done == copied) start = now();
          return !interrupt.flag();
        },
        prefix);
    const double rate = static_cast<double>(context - copied) / (now() - start);
    row.prefill_tok_s = std::max(row.prefill_tok_s, rate);
    batch_of.push_back(sequences.back().get());
    next.push_back(greedy(sequences.back()->logits()));
  }
  std::vector<double> seconds;
  RetrievalStats before;
  for (int64_t step = 0; step < options.warmup + options.steps; ++step) {
    if (interrupt.flag()) throw Error(ErrorCode::kCancelled, "interrupted");
    if (step == options.warmup) {
      for (const Sequence* sequence : batch_of) before.add(sequence->stats());
    }
    const double start = now();
    engine.decode(batch_of, next);
    if (step >= options.warmup) seconds.push_back(now() - start);
    for (size_t b = 0; b < batch_of.size(); ++b) next[b] = greedy(batch_of[b]->logits());
  }
  row.decode_ms = 1e3 * median(seconds);
  for (const Sequence* sequence : batch_of) {
    row.stats.add(sequence->stats());
    const MemoryStats memory = sequence->memory();
    row.memory.fast_kv_bytes += memory.fast_kv_bytes;
    row.memory.slow_kv_bytes += memory.slow_kv_bytes;
    row.memory.sketch_bytes += memory.sketch_bytes;
  }
  row.stats.subtract(before);
  return row;
}

nlohmann::ordered_json row_json(const Row& row, const Engine& engine, const BenchOptions& options) {
  return {{"policy", row.policy},
          {"context", row.context},
          {"batch", row.batch},
          {"prefill_tok_s", row.prefill_tok_s},
          {"prefill_tokens",
           on_device(engine) ? row.context : std::min(row.context, options.prefill_tokens)},
          {"decode_ms", row.decode_ms},
          {"steps", options.steps},
          {"fast_kv_bytes", row.memory.fast_kv_bytes},
          {"slow_kv_bytes", row.memory.slow_kv_bytes},
          {"sketch_bytes", row.memory.sketch_bytes},
          {"selected", row.stats.pages_selected},
          {"hits", row.stats.hits},
          {"misses_before", row.stats.misses_before},
          {"misses_after", row.stats.misses_after},
          {"bytes_recalled", row.stats.bytes_recalled},
          {"drifted", row.stats.drifted()},
          {"drifted_by_layer", row.stats.drifted_by_layer},
          {"lost_mass", row.stats.lost_mass()},
          {"wait_ms", static_cast<double>(row.stats.wait_ns) * 1e-6},
          {"budget", engine.options().budget},
          {"sink", engine.options().sink},
          {"window", engine.options().window},
          {"page", engine.options().page},
          {"kv_type", engine.options().kv_type},
          {"threads", engine.options().threads},
          {"backend", engine.options().backend},
          {"device", engine.device()},
          {"model", engine.model().name}};
}

void write_json(const std::string& path, const nlohmann::ordered_json& rows) {
  std::ofstream file(path, std::ios::trunc);
  file << rows.dump(1) << '\n';
  file.close();
  if (!file) throw Error(ErrorCode::kIo, "cannot be written", path);
}

void check(const BenchOptions& options) {
  const auto require = [](bool holds, const std::string& message) {
    if (!holds) throw Error(ErrorCode::kInvalidArgument, message);
  };
  require(options.steps >= 1, fmt::format("--steps is {}, must be 1 or more", options.steps));
  require(options.warmup >= 0, fmt::format("--warmup is {}, must be 0 or more", options.warmup));
  require(options.prefill_tokens >= 1,
          fmt::format("--prefill-tokens is {}, must be 1 or more", options.prefill_tokens));
  for (int64_t context : options.contexts) {
    require(context >= 1, fmt::format("--contexts has {}, must be 1 or more", context));
  }
  for (int batch : options.batches) {
    require(batch >= 1, fmt::format("--batches has {}, must be 1 or more", batch));
  }
}

void bench_shape(const CLI::App& command, const BenchOptions& options) {
  const EngineOptions& engine = options.engine.options;
  SyntheticOptions shape = options.synthetic;
  shape.policies = options.policies;
  shape.contexts = options.contexts;
  shape.batches = options.batches;
  shape.budget = engine.budget;
  shape.sink = engine.sink;
  shape.window = engine.window;
  shape.page = engine.page;
  shape.kv_type = engine.kv_type;
  shape.threads = engine.threads;
  shape.chunk = engine.chunk;
  shape.steps = options.steps;
  shape.warmup = options.warmup;
  shape.json = options.json;
  shape.finish(command);
  bench_synthetic(shape);
}

void bench(const CLI::App& command, const BenchOptions& options) {
  check(options);
  if (options.synthetic.asked(command)) return bench_shape(command, options);
  EngineOptions base = options.engine.finish();
  base.max_batch = *std::max_element(options.batches.begin(), options.batches.end());
  const auto engine_for = [&](const std::string& policy, const Engine* like) {
    EngineOptions result = base;
    result.policy = policy;
    return std::make_unique<Engine>(result, progress_bar(), like);
  };
  const auto dense = engine_for("full", nullptr);
  std::vector<std::unique_ptr<Engine>> engines;
  for (const std::string& policy : options.policies) {
    engines.push_back(engine_for(policy, dense.get()));
    const std::string& note = engines.back()->policy_note();
    if (!note.empty()) fmt::print(stderr, "policy {}: {}\n", policy, note);
  }

  const Interrupt interrupt;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  Table table({"policy", "context", "batch", "prefill tok/s", "decode ms", "fast KV", "slow KV",
               "hit rate", "before", "after", "recalled", "drifted"});
  for (int64_t context : options.contexts) {
    const auto tokens = running_text(*dense, options.text, context);
    const int64_t chunk = dense->options().chunk;
    const int64_t shared =
        on_device(*dense) ? 0
                          : std::max<int64_t>(0, context - options.prefill_tokens) / chunk * chunk;
    const auto prefix = shared_prefix(*dense, tokens, shared, interrupt);
    for (int batch : options.batches) {
      for (const auto& engine : engines) {
        if (on_device(*engine)) {
          fmt::print(stderr, "{} x {}, {}\n", batch, engine->options().policy,
                     format_memory(*engine, context + options.warmup + options.steps));
        }
        const Row row = bench_row(*engine, tokens, batch, prefix.get(), options, interrupt);
        table.add(
            {row.policy, format_count(row.context), fmt::format("{}", row.batch),
             fmt::format("{:.0f}", row.prefill_tok_s), fmt::format("{:.3f}", row.decode_ms),
             format_bytes(static_cast<double>(row.memory.fast_kv_bytes)),
             format_bytes(static_cast<double>(row.memory.slow_kv_bytes)),
             row.stats.pages_selected ? fmt::format("{:.1f} %", 100 * hit_rate(row.stats)) : "-",
             format_count(static_cast<int64_t>(row.stats.misses_before)),
             format_count(static_cast<int64_t>(row.stats.misses_after)),
             format_bytes(static_cast<double>(row.stats.bytes_recalled)),
             format_count(static_cast<int64_t>(row.stats.drifted()))});
        rows.push_back(row_json(row, *engine, options));
        // After every row: an interrupted bench keeps what it measured.
        if (!options.json.empty()) write_json(options.json, rows);
      }
    }
  }
  fmt::print("{}", table.format());
}

}  // namespace

void add_bench(CLI::App& app) {
  auto* command = app.add_subcommand("bench", "Prefill and decode speed of policies");
  auto options = std::make_shared<BenchOptions>();
  options->engine.options.model = "models/freekv-demo.gguf";
  options->engine.add_to(*command, false);
  command->remove_option(command->get_option("--policy"));
  command->add_option("-m,--model", options->engine.options.model, "GGUF file or checkpoint folder")
      ->capture_default_str();
  command
      ->add_option("--policies", options->policies,
                   "policies, separated by spaces: NAME or NAME:key=value,...; with --shape also "
                   "blocking, freekv that waits for every selection")
      ->capture_default_str();
  command->add_option("--contexts", options->contexts, "context lengths in tokens")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--batches", options->batches, "sequences decoded together")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--text", options->text, "text the contexts are made of")
      ->capture_default_str();
  command
      ->add_option("--prefill-tokens", options->prefill_tokens,
                   "tokens at the end of the context whose prefill is timed (on a device: all)")
      ->capture_default_str();
  command->add_option("--steps", options->steps, "decode steps timed, the median is given")
      ->capture_default_str();
  command->add_option("--warmup", options->warmup, "decode steps before these")
      ->capture_default_str();
  command->add_option("--json", options->json, "also write the rows to this file");
  options->synthetic.add_to(*command);
  command->callback([options, command] { bench(*command, *options); });
}

}  // namespace freekv::app
