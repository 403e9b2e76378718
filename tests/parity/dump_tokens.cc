// Tokens of many texts in one process, for test_tokenizers.py and bench/compare_tokenizers.py:
// dump_tokens MODEL [REPETITIONS] < TEXTS.
//
// Standard input: for each text its length in bytes (u32) and its bytes. Standard output: for each
// text the ids with control tokens parsed and the bos token, the ids of its plain text, and both
// decoded, the first with control tokens; every list after its length (u32). With REPETITIONS:
// instead, the best time in seconds of encoding each text's plain ids, one a line.
#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>

#include "core/check.hpp"
#include "tokenizer/tokenizer.hpp"

namespace freekv {
namespace {

void write(const void* values, size_t count, size_t bytes_each) {
  const auto length = static_cast<uint32_t>(count);
  std::fwrite(&length, sizeof(length), 1, stdout);
  std::fwrite(values, bytes_each, count, stdout);
}

void dump(const Tokenizer& tokenizer, std::string_view text) {
  const auto parsed = tokenizer.encode(text, {.add_bos = true, .parse_special = true});
  const auto plain = tokenizer.encode(text);
  write(parsed.data(), parsed.size(), sizeof(int32_t));
  write(plain.data(), plain.size(), sizeof(int32_t));
  const std::string whole = tokenizer.decode(parsed, true);
  const std::string shown = tokenizer.decode(plain);
  write(whole.data(), whole.size(), 1);
  write(shown.data(), shown.size(), 1);
}

void time(const Tokenizer& tokenizer, std::string_view text, int repetitions) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const auto ids = tokenizer.encode(text);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    check_internal(!ids.empty(), "no ids for {} bytes", text.size());
    best = std::min(best, seconds.count());
  }
  fmt::print("{}\n", best);
}

void run(const std::string& model, int repetitions) {
  const Tokenizer tokenizer = std::filesystem::is_directory(model)
                                  ? Tokenizer::from_folder(model).value()
                                  : Tokenizer::from_gguf(Gguf::open(model).value()).value();
  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  for (std::string_view rest = input; !rest.empty();) {
    uint32_t length = 0;
    check_argument(rest.size() >= sizeof(length), "{} bytes after the last text", rest.size());
    rest.copy(reinterpret_cast<char*>(&length), sizeof(length));
    rest.remove_prefix(sizeof(length));
    check_argument(length <= rest.size(), "a text of {} bytes, {} are left", length, rest.size());
    if (repetitions > 0) {
      time(tokenizer, rest.substr(0, length), repetitions);
    } else {
      dump(tokenizer, rest.substr(0, length));
    }
    rest.remove_prefix(length);
  }
}

}  // namespace
}  // namespace freekv

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s MODEL [REPETITIONS]\n", argv[0]);
    return 2;
  }
  try {
    freekv::run(argv[1], argc > 2 ? std::atoi(argv[2]) : 0);
  } catch (const freekv::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
