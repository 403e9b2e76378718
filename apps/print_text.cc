#include "print_text.hpp"

#include <unistd.h>

#include <cstdio>

#include "tokenizer/terminal_text.hpp"

namespace freekv::app {
namespace {

void write(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

void print_text(std::string_view text) {
  if (isatty(STDOUT_FILENO) != 0) {
    write(for_terminal(text));
  } else {
    write(text);
  }
}

}  // namespace freekv::app
