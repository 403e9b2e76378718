// freekv convert: checkpoints and GGUF files into GGUF files of a chosen type.
#include "model/convert.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <optional>
#include <thread>

#include "commands.hpp"
#include "exit_code.hpp"
#include "interrupt.hpp"
#include "progress.hpp"

namespace freekv::app {
namespace {

struct ConvertOptions {
  std::string in;
  std::string out;
  DType type = DType::kF16;
  int threads = 0;
};

void convert(const ConvertOptions& options) {
  const Interrupt interrupt;
  ThreadPool pool(options.threads != 0
                      ? options.threads
                      : std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  const LoadProgress bar = progress_bar("converting");
  try {
    convert_model(pool, options.in, options.out, options.type,
                  [&](size_t done, size_t total) { return bar(done, total) && !interrupt.flag(); });
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) throw ExitRequest{kInterrupted};
    throw;
  }
}

}  // namespace

void add_convert(CLI::App& app) {
  auto* command = app.add_subcommand(
      "convert", "Write a checkpoint folder or GGUF file as a GGUF file of another type");
  auto options = std::make_shared<ConvertOptions>();
  command->add_option("in", options->in, "checkpoint folder or GGUF file")->required();
  command->add_option("out", options->out, "GGUF file to write")->required();
  command
      ->add_option("--type", options->type,
                   "of the matrices: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0")
      ->transform(CLI::CheckedTransformer(std::map<std::string, DType>{{"f32", DType::kF32},
                                                                       {"f16", DType::kF16},
                                                                       {"bf16", DType::kBF16},
                                                                       {"q8_0", DType::kQ8_0},
                                                                       {"q5_1", DType::kQ5_1},
                                                                       {"q5_0", DType::kQ5_0},
                                                                       {"q4_1", DType::kQ4_1},
                                                                       {"q4_0", DType::kQ4_0}}))
      ->default_str("f16");
  command->add_option("--threads", options->threads, "worker threads (0: all cores)");
  command->callback([options] { convert(*options); });
}

}  // namespace freekv::app
