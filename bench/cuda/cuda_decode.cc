// Decode on a GPU with the shapes of known models, weights and KV made up on the device: the whole
// step as the engine runs it, against the time of reading the weights once in the same run. Drift
// of queries and turnover of selected pages, which random weights do not have, are forced.
#include <CLI/CLI.hpp>
#include <fstream>

#include "cuda/decode_bench.hpp"
#include "cuda/machine.hpp"

namespace freekv::bench {
namespace {

// What one run does, beside the options of each cell.
struct Mode {
  bool ablation = false;
  bool gather_table = false;
  std::string json;
};

void print_row(const nlohmann::json& row) {
  fmt::print(
      "{:<10} {:>9} {:>6} {:>10.3f} {:>11.2f} {:>14.1f} {:>12.1f}",
      row["policy"].get<std::string>(), row["context"].get<int64_t>(), row["batch"].get<int>(),
      row["decode_ms"].get<double>(), row["ratio_to_weights"].get<double>(),
      row["bytes_recalled_per_step"].get<double>() / (1 << 20), row["recall_GB_s"].get<double>());
  if (row.contains("split")) {
    const nlohmann::json& split = row["split"];
    fmt::print("   {:.2f} + {:.2f} + {:.2f} + {:.2f}", split["rest_ms"].get<double>(),
               split["attention_ms"].get<double>(), split["selection_ms"].get<double>(),
               split["recall_ms"].get<double>());
  }
  fmt::print("\n");
  std::fflush(stdout);
}

nlohmann::json table(const Subject& subject, const Options& options) {
  fmt::print("{:<10} {:>9} {:>6} {:>10} {:>11} {:>14} {:>12}{}\n", "policy", "context", "batch",
             "ms/token", "x weights", "MiB recalled", "GB/s recall",
             options.split ? "   ms: rest + attention + selection + recall" : "");
  nlohmann::json rows = nlohmann::json::array();
  for (const int64_t context : options.contexts) {
    for (const int batch : options.batches) {
      for (const std::string& policy : options.policies) {
        try {
          nlohmann::json row = measure(subject, options, policy, context, batch);
          if (options.split) row["split"] = time_split(subject, options, row);
          print_row(row);
          rows.push_back(std::move(row));
        } catch (const Error& error) {
          if (error.code() != ErrorCode::kOutOfMemory) throw;
          fmt::print("{:<10} {:>9} {:>6} {}\n", policy, context, batch, error.what());
        }
      }
    }
  }
  return rows;
}

nlohmann::json run_model(const Options& options, const Mode& mode, double link_GB_s) {
  NamedShape shape = find_shape(options.shape);
  shape.shape.kv.page = options.page;
  Stream stream;
  const SyntheticModel model(shape, stream);
  stream.synchronize();
  const DeviceBuffer sink = device_array<uint32_t>(1);
  const double weights_ms = milliseconds(stream, 10, [&] {
    read_once(model.values().data(), model.values().bytes() / 16 * 16, sink.as<uint32_t>(), stream);
  });
  const Subject subject{shape, model, weights_ms, link_GB_s};
  check_output(subject, options);
  fmt::print("{}: weights {:.2f} GB, read once in {:.3f} ms ({:.0f} GB/s); link {:.1f} GB/s\n",
             shape.name, static_cast<double>(model.values().bytes()) * 1e-9, weights_ms,
             static_cast<double>(model.values().bytes()) / weights_ms * 1e-6, link_GB_s);
  return mode.ablation ? ablation(subject, options) : table(subject, options);
}

int run(const Options& options, const Mode& mode) {
  const double link_GB_s = link_rate();
  nlohmann::json result{{"machine", describe_machine()},
                        {"commit", options.commit.empty() ? built_commit() : options.commit},
                        {"options", to_json(options)},
                        {"link_GB_s", link_GB_s},
                        {"kind", mode.gather_table ? "gather"
                                 : mode.ablation   ? "ablation"
                                                   : "decode"}};
  result["rows"] = mode.gather_table ? gather_table() : run_model(options, mode, link_GB_s);
  if (!mode.json.empty()) {
    std::ofstream file(mode.json);
    file << result.dump(1) << "\n";
    file.close();
    if (!file) fail(ErrorCode::kIo, "{} cannot be written", mode.json);
  }
  return 0;
}

}  // namespace
}  // namespace freekv::bench

int main(int argc, char** argv) {
  freekv::bench::Options options;
  freekv::bench::Mode mode;
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
  app.add_option("--mechanism", options.mechanism, "gather, streamed or per-page")
      ->capture_default_str();
  app.add_option("--host-layout", options.host_layout, "head-major, or token-major with per-page")
      ->capture_default_str();
  app.add_option("--staging", options.staging, "staging buffers of streamed, 1 or 2")
      ->capture_default_str();
  app.add_flag("--no-graph", options.no_graph, "queue the same kernels without a graph");
  app.add_flag("--split", options.split, "also time steps that lack parts: where the time goes");
  app.add_flag("--ablation", mode.ablation, "from published systems' recall to ours, step by step");
  app.add_flag("--gather-table", mode.gather_table, "recall alone, by page size and CTAs");
  app.add_option("--commit", options.commit, "for the JSON; default: what was built");
  app.add_option("--json", mode.json, "file for the results");
  CLI11_PARSE(app, argc, argv);
  try {
    return freekv::bench::run(options, mode);
  } catch (const std::exception& error) {
    fmt::print(stderr, "cuda_decode: {}\n", error.what());
    return 1;
  }
}
