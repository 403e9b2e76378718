// freekv profile-heads: which heads of a model look things up, for the policy razor.
#include <fmt/format.h>

#include <fstream>
#include <thread>

#include "commands.hpp"
#include "engine/profile_heads.hpp"
#include "freekv/error.hpp"
#include "progress.hpp"

namespace freekv::app {
namespace {

struct Options {
  std::string model;
  std::string out;
  ProfileHeadsOptions measure{.threads = 0};
};

void profile(Options options) {
  if (options.measure.threads == 0) {
    options.measure.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  const Model model(options.model);
  const auto [tokens, repeats] = std::pair{options.measure.tokens, options.measure.repeats};
  Progress progress("profile", tokens * repeats);
  const HeadProfile measured = profile_heads(model, options.measure, [&](int64_t done) {
    progress.update(done);
    return true;
  });
  const std::string text = format_head_profile(measured);
  if (options.out.empty()) {
    fmt::print("{}", text);
    return;
  }
  std::ofstream file(options.out, std::ios::trunc);
  file << text;
  file.close();
  if (!file) throw Error(ErrorCode::kIo, "cannot be written", options.out);
}

}  // namespace

void add_profile_heads(CLI::App& app) {
  auto* command = app.add_subcommand(
      "profile-heads", "Measure which heads look things up: JSON for --policy razor:profile=FILE");
  auto options = std::make_shared<Options>();
  command->add_option("model", options->model, "GGUF file")->required();
  command->add_option("-o,--out", options->out, "JSON file to write (default: standard output)");
  command->add_option("--tokens", options->measure.tokens, "random tokens that repeat")
      ->capture_default_str();
  command->add_option("--repeats", options->measure.repeats, "times they stand in the text")
      ->capture_default_str();
  command->add_option("--seed", options->measure.seed, "of the random tokens")
      ->capture_default_str();
  command->add_option("--threads", options->measure.threads, "worker threads (0: all cores)");
  command->callback([options] { profile(*options); });
}

}  // namespace freekv::app
