// freekv: language models over contexts larger than fast memory.
#include <fmt/format.h>

#include <cstdio>
#include <new>

#include "commands.hpp"
#include "exit_code.hpp"
#include "freekv/error.hpp"

namespace freekv::app {
namespace {

int main(int argc, char** argv) {
  CLI::App app{"Runs language models over contexts far larger than fast memory.", "freekv"};
  app.require_subcommand(1);
  app.set_version_flag("--version", FREEKV_VERSION);
  add_run(app);
  add_chat(app);
  add_demo(app);
  add_bench(app);
  add_eval(app);
  add_report(app);
  add_info(app);
  add_tokenize(app);
  add_profile_heads(app);
  add_convert(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "freekv: {} (freekv --help lists commands and options)\n", error.what());
    return kBadInput;
  } catch (const ExitRequest& request) {
    return request.code;
  } catch (const Error& error) {
    fmt::print(stderr, "freekv: {}\n", error.what());
    return exit_code(error);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "freekv: out of memory\n");
    return kFailed;
  } catch (const std::exception& error) {
    fmt::print(stderr, "freekv: {}\n", error.what());
    return kFailed;
  }
  return 0;
}

}  // namespace
}  // namespace freekv::app

int main(int argc, char** argv) { return freekv::app::main(argc, argv); }
