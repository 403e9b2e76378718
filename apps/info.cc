// freekv info: what a model file or checkpoint folder holds; without one, what can compute here.
#include <fmt/format.h>

#include <cstdio>

#include "commands.hpp"
#include "engine_flags.hpp"
#include "freekv/engine.hpp"
#include "io/checkpoint.hpp"
#include "io/gguf.hpp"
#include "io/quote.hpp"
#include "model/config.hpp"
#include "model/weights.hpp"
#include "table.hpp"

namespace freekv::app {
namespace {

template <typename Extents>
std::string shape_text(const Extents& extents) {
  return extents.empty() ? "scalar" : fmt::format("{}", fmt::join(extents, " x "));
}

void list_gguf(const Gguf& file, bool tensors) {
  fmt::print("{}: GGUF v{}, {}, {} metadata keys, {} tensors\n", file.name(), file.version(),
             format_bytes(static_cast<double>(file.file_bytes())), file.metadata().size(),
             file.tensors().size());
  for (const GgufEntry& entry : file.metadata()) {
    fmt::print("  {} = {}\n", quoted(entry.key), format_gguf_value(entry.value, 4));
  }
  if (!tensors) return;
  Table table({"tensor", "type", "shape", "bytes"});
  for (const GgufTensorInfo& tensor : file.tensors()) {
    const auto used = static_cast<size_t>(tensor.dimensions);
    table.add({quoted(tensor.name), std::string(tensor.type->name),
               shape_text(std::span(tensor.ne).first(used)),
               format_count(static_cast<int64_t>(tensor.bytes))});
  }
  fmt::print("\n{}", table.format());
}

void list_checkpoint(const Checkpoint& folder, bool tensors) {
  double bytes = 0;
  for (const Safetensors& file : folder.files()) bytes += static_cast<double>(file.file_bytes());
  fmt::print("{}: checkpoint folder, {} safetensors file{} of {}, {} tensors\n", folder.folder(),
             folder.files().size(), folder.files().size() == 1 ? "" : "s", format_bytes(bytes),
             folder.tensors().size());
  if (!tensors) return;
  Table table({"tensor", "type", "shape", "bytes"});
  for (const CheckpointTensor& tensor : folder.tensors()) {
    table.add({freekv::quoted(tensor.info->name), std::string(tensor.info->type->name),
               shape_text(tensor.info->extents()),
               format_count(static_cast<int64_t>(tensor.info->bytes))});
  }
  fmt::print("\n{}", table.format());
}

std::string rope_text(const RopeConfig& rope) {
  const std::string base = fmt::format("RoPE base {:g}", rope.base);
  const std::string factor = fmt::format("{:g}", rope.factor);
  switch (rope.scaling) {
    case RopeScaling::kNone:
      return base;
    case RopeScaling::kLinear:
      return fmt::format("{}, scaled linearly by {}", base, factor);
    case RopeScaling::kDynamic:
      return fmt::format("{}, dynamic NTK by {} beyond {}", base, factor, rope.original_context);
    case RopeScaling::kLlama3:
      return fmt::format("{}, llama3 scaling by {} from {}", base, factor, rope.original_context);
    case RopeScaling::kYarn:
      return fmt::format("{}, YaRN by {} from {}", base, factor, rope.original_context);
  }
  return base;
}

void summarise(const ModelConfig& config, const ModelWeights& weights) {
  const double kv_bytes = 2.0 * 2 * config.layers * config.kv_heads * config.head_dim;
  fmt::print(
      "\n{}: {} layers, hidden {}, {} query and {} KV heads of {}, feed-forward {}, vocabulary {}, "
      "context {}\n{}{}\nweights: {}{}\nKV cache in f16: {} per token, {} at full context\n",
      config.architecture, config.layers, config.hidden, config.query_heads, config.kv_heads,
      config.head_dim, config.ffn, config.vocab, format_count(config.context_length),
      rope_text(config.rope),
      config.sliding_window > 0 ? fmt::format(", sliding window {}", config.sliding_window) : "",
      format_bytes(static_cast<double>(weights.bytes)), weights.tied() ? ", embedding tied" : "",
      format_bytes(kv_bytes), format_bytes(kv_bytes * static_cast<double>(config.context_length)));
}

void list_backends() {
  for (const BackendInfo& backend : backends()) {
    fmt::print("{:<10} {}: {}\n", backend.name, backend.summary,
               backend.problem.empty() ? backend.device : "not here, " + backend.problem);
  }
}

void info(const std::string& path, bool tensors) {
  if (path.empty()) return list_backends();
  // The summary comes last, so that a file this program cannot run is still shown.
  if (is_folder(path)) {
    const Checkpoint folder = Checkpoint::open(path).value();
    list_checkpoint(folder, tensors);
    const ModelConfig config = read_config(folder);
    summarise(config, read_weights(*tensor_source(folder), config));
  } else {
    const Gguf file = Gguf::open(path).value();
    list_gguf(file, tensors);
    const ModelConfig config = read_config(file);
    summarise(config, read_weights(*tensor_source(file), config));
  }
}

}  // namespace

void add_info(CLI::App& app) {
  auto* command = app.add_subcommand(
      "info",
      "Show metadata, shape and tensors of a GGUF file or checkpoint folder, or the backends here");
  struct Options {
    std::string model;
    bool tensors = false;
  };
  auto options = std::make_shared<Options>();
  command->add_option("model", options->model,
                      "GGUF file or checkpoint folder; without one the backends are shown");
  command->add_flag("--tensors", options->tensors, "list every tensor");
  command->callback([options] { info(options->model, options->tensors); });
}

}  // namespace freekv::app
