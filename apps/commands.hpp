// The program's commands, one file each. Each adds its options to `app` and runs from a callback;
// they throw Error, which main() turns into one line and an exit code.
#pragma once

#include <CLI/CLI.hpp>

namespace freekv::app {

void add_run(CLI::App& app);
void add_chat(CLI::App& app);
void add_info(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_profile_heads(CLI::App& app);
void add_convert(CLI::App& app);
void add_demo(CLI::App& app);
void add_bench(CLI::App& app);
void add_eval(CLI::App& app);
void add_report(CLI::App& app);

}  // namespace freekv::app
