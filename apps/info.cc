// freekv info: what a model file holds.
#include <fmt/format.h>

#include <cstdio>

#include "commands.hpp"
#include "engine_flags.hpp"
#include "io/gguf.hpp"
#include "io/quote.hpp"
#include "model/config.hpp"
#include "table.hpp"
#include "tokenizer/tokenizer.hpp"

namespace freekv::app {
namespace {

void info(const std::string& path, bool tensors) {
  const Gguf file = Gguf::open(path).value();
  fmt::print("{}: GGUF v{}, {}, {} metadata keys, {} tensors\n", path, file.version(),
             format_bytes(static_cast<double>(file.file_bytes())), file.metadata().size(),
             file.tensors().size());
  for (const GgufEntry& entry : file.metadata()) {
    fmt::print("  {} = {}\n", quoted(entry.key), format_gguf_value(entry.value, 4));
  }
  if (tensors) {
    Table table({"tensor", "type", "shape", "bytes"});
    for (const GgufTensorInfo& tensor : file.tensors()) {
      std::string shape = fmt::format("{}", tensor.ne[0]);
      for (int d = 1; d < tensor.dimensions; ++d) {
        shape += fmt::format(" x {}", tensor.ne[static_cast<size_t>(d)]);
      }
      table.add({quoted(tensor.name), std::string(tensor.type->name), shape,
                 format_count(static_cast<int64_t>(tensor.bytes))});
    }
    fmt::print("\n{}", table.format());
  }
  // Last, so that a file this program cannot run is still shown.
  const ModelConfig config = read_config(file);
  const double kv_bytes = 2.0 * 2 * config.layers * config.kv_heads * config.head_dim;
  fmt::print(
      "\n{}: {} layers, hidden {}, {} query and {} KV heads of {}, feed-forward {}, vocabulary {}, "
      "context {}\nKV cache in f16: {} per token, {} at full context\n",
      config.architecture, config.layers, config.hidden, config.query_heads, config.kv_heads,
      config.head_dim, config.ffn, config.vocab, format_count(config.context_length),
      format_bytes(kv_bytes), format_bytes(kv_bytes * static_cast<double>(config.context_length)));
}

}  // namespace

void add_info(CLI::App& app) {
  auto* command = app.add_subcommand("info", "Show metadata, shape and tensors of a GGUF file");
  struct Options {
    std::string model;
    bool tensors = false;
  };
  auto options = std::make_shared<Options>();
  command->add_option("model", options->model, "GGUF file")->required();
  command->add_flag("--tensors", options->tensors, "list every tensor");
  command->callback([options] { info(options->model, options->tensors); });
}

}  // namespace freekv::app
