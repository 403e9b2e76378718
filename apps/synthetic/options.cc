#include "synthetic/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <span>
#include <string_view>
#include <thread>

#include "core/check.hpp"
#include "synthetic/shapes.hpp"

namespace freekv::app {
namespace {

using Names = std::span<const std::string_view>;

constexpr std::array<std::string_view, 12> kOwn = {
    "--drift", "--churn",    "--ctas",     "--mechanism", "--host-layout", "--staging",
    "--split", "--no-graph", "--ablation", "--prefill",   "--rounds",      "--commit"};

// What each mode takes; everything else that is given is a mistake.
constexpr std::array<std::string_view, 4> kAlways = {"--backend", "--json", "--commit",
                                                     "--threads"};
constexpr std::array<std::string_view, 19> kDecodeTakes = {
    "--shape",     "--policies",    "--contexts", "--batches",  "--budget", "--sink",  "--window",
    "--page",      "--kv-type",     "--drift",    "--churn",    "--ctas",   "--steps", "--warmup",
    "--mechanism", "--host-layout", "--staging",  "--no-graph", "--split"};
constexpr std::array<std::string_view, 14> kAblationTakes = {
    "--ablation", "--shape", "--contexts", "--batches", "--budget",  "--sink",  "--window",
    "--page",     "--drift", "--churn",    "--ctas",    "--kv-type", "--steps", "--warmup"};
constexpr std::array<std::string_view, 10> kPrefillTakes = {
    "--prefill", "--shape", "--policies", "--budget", "--sink",
    "--window",  "--page",  "--kv-type",  "--chunk",  "--rounds"};
constexpr std::array<std::string_view, 1> kGatherTakes = {"--gather-table"};

bool has(Names names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool given(const CLI::App& command, const std::string& name) { return command.count(name) > 0; }

std::string value_of(const CLI::Option& option) {
  return fmt::format("{}", fmt::join(option.results(), ","));
}

void check_takes(const CLI::App& command, const std::string& mode, Names takes) {
  for (const CLI::Option* option : command.get_options()) {
    const std::string name = option->get_name();
    if (option->count() == 0 || has(kAlways, name) || has(takes, name)) continue;
    fail(ErrorCode::kInvalidArgument, "{} is {}, which a benchmark with {} {} does not take", name,
         value_of(*option), mode, value_of(*command.get_option(mode)));
  }
}

void check_one_of(const char* name, const std::string& value, Names known) {
  check_argument(has(known, value), "{} is \"{}\", must be one of {}", name, value,
                 fmt::join(known, ", "));
}

}  // namespace

void SyntheticOptions::add_to(CLI::App& command) {
  const std::string group = "With weights and KV made up on a GPU (--backend cuda)";
  const auto add = [&](const char* name, auto& value, const std::string& text) {
    return command.add_option(name, value, text)->group(group);
  };
  add("--shape", shape, "decode with the sizes of a known model: " + shape_names());
  add("--drift", drift, "share of heads that drift in a step; negative: by their queries")
      ->capture_default_str();
  add("--churn", churn, "share of the selected pages that are new in a step; negative: by score")
      ->capture_default_str();
  command.add_flag("--split", split, "also where a step's time goes")->group(group);
  command
      .add_flag("--ablation", ablation, "from published systems' recall to this one, step by step")
      ->group(group);
  add("--prefill", prefill, "read prompts of these lengths instead of decoding")->delimiter(',');
  command
      .add_flag("--gather-table", gather_table, "recall alone, by page size and CTAs; no --shape")
      ->group(group);
  add("--mechanism", mechanism, "of recall: gather, streamed or per-page")->capture_default_str();
  add("--host-layout", host_layout, "head-major, or token-major with --mechanism per-page")
      ->capture_default_str();
  add("--staging", staging, "staging buffers of --mechanism streamed, 1 or 2")
      ->capture_default_str();
  add("--ctas", ctas, "CTAs of a gather")->capture_default_str();
  command.add_flag("--no-graph", no_graph, "queue the same kernels without a graph")->group(group);
  add("--rounds", rounds, "of --prefill, the median is given; one past 100,000 tokens")
      ->capture_default_str();
  add("--commit", commit, "for the JSON; default: what was built");
}

bool SyntheticOptions::asked(const CLI::App& command) const {
  if (given(command, "--shape") || gather_table) return true;
  for (const std::string_view name : kOwn) {
    const CLI::Option* option = command.get_option(std::string(name));
    if (option->count() == 0) continue;
    fail(ErrorCode::kInvalidArgument, "{} is {}, which needs --shape, one of {}", name,
         value_of(*option), shape_names());
  }
  return false;
}

void SyntheticOptions::finish(const CLI::App& command) {
  if (given(command, "--model") && given(command, "--shape")) {
    fail(ErrorCode::kInvalidArgument,
         "--model is {} and --shape is {}: a shape has weights of its own, give one of them",
         value_of(*command.get_option("--model")), shape);
  }
  if (gather_table) {
    mode = SyntheticMode::kGather;
    check_takes(command, "--gather-table", kGatherTakes);
  } else if (!prefill.empty()) {
    mode = SyntheticMode::kPrefill;
    check_takes(command, "--prefill", kPrefillTakes);
  } else if (ablation) {
    mode = SyntheticMode::kAblation;
    check_takes(command, "--ablation", kAblationTakes);
  } else {
    check_takes(command, "--shape", kDecodeTakes);
  }
  const std::string backend = command.get_option("--backend")->as<std::string>();
  check_argument(backend == "cuda", "--backend is {}, {} runs on cuda", backend,
                 gather_table ? "--gather-table" : "--shape");

  const auto by_default = [&](const char* name, auto& value, auto other) {
    if (!given(command, name)) value = std::move(other);
  };
  const bool long_generation = mode == SyntheticMode::kAblation;
  using Contexts = std::vector<int64_t>;
  by_default("--policies", policies,
             mode == SyntheticMode::kPrefill ? std::vector<std::string>{"freekv"}
                                             : std::vector<std::string>{"full", "freekv"});
  by_default("--contexts", contexts, long_generation ? Contexts{32768} : Contexts{32768, 131072});
  by_default("--batches", batches, std::vector<int>{long_generation ? 4 : 1});
  by_default("--sink", sink, int64_t{long_generation ? 512 : 128});
  by_default("--window", window, int64_t{long_generation ? 512 : 128});
  // Of the ablation: a first selection, one that speculates, and one more.
  by_default("--warmup", warmup, int64_t{long_generation ? 3 : 8});
  by_default("--kv-type", kv_type, std::string("bf16"));
  by_default("--chunk", chunk, 8192);
  check_argument(threads >= 0, "--threads is {}, must be 0 or more", threads);
  if (threads == 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));

  if (mode != SyntheticMode::kGather) find_shape(shape);
  constexpr std::array<std::string_view, 3> kMechanisms = {"gather", "streamed", "per-page"};
  constexpr std::array<std::string_view, 2> kLayouts = {"head-major", "token-major"};
  constexpr std::array<std::string_view, 2> kKvTypes = {"bf16", "f16"};
  check_one_of("--mechanism", mechanism, kMechanisms);
  check_one_of("--host-layout", host_layout, kLayouts);
  check_one_of("--kv-type", kv_type, kKvTypes);
  check_argument(host_layout == "head-major" || mechanism == "per-page",
                 "--host-layout is {} and --mechanism is {}: only per-page copies rows",
                 host_layout, mechanism);
  check_argument(staging == 1 || staging == 2, "--staging is {}, must be 1 or 2", staging);
  check_argument(drift <= 1, "--drift is {}, must be at most 1", drift);
  check_argument(churn <= 1, "--churn is {}, must be at most 1", churn);
  check_argument(ctas >= 1 && ctas <= 1024, "--ctas is {}, must be 1 to 1024", ctas);
  check_argument(page == 16 || page == 32 || page == 64, "--page is {}, must be 16, 32 or 64",
                 page);
  check_argument(rounds >= 1, "--rounds is {}, must be 1 or more", rounds);
  check_argument(chunk >= page && chunk % page == 0,
                 "--chunk is {}, must be a multiple of --page, {}", chunk, page);
  for (const int64_t tokens : prefill) {
    check_argument(tokens >= 1, "--prefill has {}, must be 1 or more", tokens);
  }
  check_argument(!ablation || (contexts.size() == 1 && batches.size() == 1),
                 "--contexts is {} and --batches is {}: --ablation takes one of each",
                 fmt::join(contexts, ","), fmt::join(batches, ","));
}

}  // namespace freekv::app
