// freekv run: a prompt in, text out.
#include <fmt/format.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <optional>

#include "commands.hpp"
#include "engine_flags.hpp"
#include "exit_code.hpp"
#include "freekv/engine.hpp"
#include "interrupt.hpp"
#include "print_text.hpp"
#include "progress.hpp"
#include "read_file.hpp"
#include "report.hpp"

namespace freekv::app {
namespace {

struct RunOptions {
  EngineFlags engine;
  SamplingOptions sampling;
  std::string prompt;
  std::string file;
  bool chat = false;
  int64_t max_tokens = 256;
  StatsFormat stats = StatsFormat::kText;
};

/// A file is the document, -p the question after it; either alone is the whole prompt.
std::string prompt_text(const RunOptions& options) {
  if (options.file.empty()) return options.prompt;
  std::string text = read_file(options.file);
  if (options.prompt.empty()) return text;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text + "\n\n" + options.prompt;
}

/// What was chosen, and what is going to be taken: on a device all of it at once.
void announce(const Engine& engine, int64_t context) {
  if (!engine.policy_note().empty()) fmt::print(stderr, "policy   {}\n", engine.policy_note());
  if (engine.device() != engine.options().backend) {
    fmt::print(stderr, "{}\n", format_memory(engine, context));
  }
}

void run(const RunOptions& options) {
  if (options.file.empty() && options.prompt.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "no prompt: give -p TEXT, -f FILE or both");
  }
  if (options.max_tokens < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("-n is {}, must be 0 or more", options.max_tokens));
  }
  const std::string text = prompt_text(options);
  Engine engine(options.engine.finish(), progress_bar());
  const std::vector<int32_t> prompt = options.chat
                                          ? engine.encode(engine.chat_prompt(user_turn(text)), true)
                                          : engine.encode_prompt(text);
  const auto length = static_cast<int64_t>(prompt.size());
  if (length > engine.options().context) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the prompt has {} tokens, the context limit is {}", length,
                            engine.options().context));
  }
  const int64_t context =
      std::min(engine.options().context, length + std::max<int64_t>(options.max_tokens, 1));
  if (options.stats == StatsFormat::kText) announce(engine, context);
  const auto sequence = engine.new_sequence(context);

  const Interrupt interrupt;
  std::optional<Progress> progress(std::in_place, "prefill", length);
  GenerateRequest request{
      .prompt = prompt,
      .max_tokens = options.max_tokens,
      .sampling = options.sampling,
      .on_prefill =
          [&](int64_t done) {
            progress->update(done);
            if (done == length) progress.reset();
          },
      .on_text = print_text,
      .cancel = &interrupt.flag(),
  };
  const GenerateResult result = generate(engine, *sequence, request);
  progress.reset();
  if (!result.tokens.empty()) std::fputc('\n', stdout);
  std::fflush(stdout);

  if (options.stats == StatsFormat::kJson) {
    fmt::print(stderr, "{}\n", generation_json(engine, *sequence, request, result).dump());
  } else if (options.stats == StatsFormat::kText) {
    fmt::print(stderr, "\n{}", generation_text(*sequence, request, result));
  }
  if (result.end == GenerateResult::End::kCancelled) throw ExitRequest{kInterrupted};
}

}  // namespace

void add_run(CLI::App& app) {
  auto* command = app.add_subcommand("run", "Generate text from a prompt or a document");
  auto options = std::make_shared<RunOptions>();
  options->engine.add_to(*command);
  command->add_option("-p,--prompt", options->prompt, "prompt, or the question after the document");
  command->add_option("-f,--file", options->file, "document to read, any length the model takes");
  command->add_flag("--chat", options->chat, "put the prompt into the model's chat format");
  command->add_option("-n,--n-predict", options->max_tokens, "most tokens to generate")
      ->capture_default_str();
  add_sampling_options(*command, options->sampling);
  command->add_option("--stats", options->stats, "statistics on standard error: text, json or none")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, StatsFormat>{{"text", StatsFormat::kText},
                                                                     {"json", StatsFormat::kJson},
                                                                     {"none", StatsFormat::kNone}}))
      ->default_str("text");
  command->callback([options] { run(*options); });
}

}  // namespace freekv::app
