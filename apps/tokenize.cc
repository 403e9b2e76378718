// freekv tokenize: text to token ids.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

#include "commands.hpp"
#include "io/gguf.hpp"
#include "read_file.hpp"
#include "tokenizer/tokenizer.hpp"

namespace freekv::app {
namespace {

struct TokenizeOptions {
  std::string model;
  std::string file = "-";
  std::string prompt;
  bool special = false;
};

Tokenizer open_tokenizer(const std::string& model) {
  if (std::filesystem::is_directory(model)) return Tokenizer::from_folder(model).value();
  const Gguf file = Gguf::open(model).value();
  return Tokenizer::from_gguf(file).value();
}

void tokenize(const TokenizeOptions& options) {
  const Tokenizer tokenizer = open_tokenizer(options.model);
  const std::string text = options.prompt.empty() ? read_file(options.file) : options.prompt;
  const auto ids = tokenizer.encode(text, {.add_bos = false, .parse_special = options.special});
  std::string line;
  for (size_t i = 0; i < ids.size(); ++i) {
    line += fmt::format("{}{}", i == 0 ? "" : " ", ids[i]);
  }
  fmt::print("{}\n", line);
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto* command = app.add_subcommand("tokenize", "Print the token ids of a text on one line");
  auto options = std::make_shared<TokenizeOptions>();
  command->add_option("model", options->model, "GGUF file or checkpoint folder")->required();
  command->add_option("-f,--file", options->file, "file to read, - for standard input")
      ->capture_default_str();
  command->add_option("-p,--prompt", options->prompt, "text instead of a file");
  command->add_flag("--special", options->special, "texts of special tokens become these tokens");
  command->callback([options] { tokenize(*options); });
}

}  // namespace freekv::app
