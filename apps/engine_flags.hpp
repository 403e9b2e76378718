// Options that every command which runs a model shares.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "freekv/engine.hpp"
#include "freekv/options.hpp"

namespace freekv::app {

struct EngineFlags {
  EngineOptions options;
  std::optional<double> tau;
  std::string device_kv;
  std::string host_kv;

  /// Adds -m unless the command takes the model otherwise; -m is required then.
  void add_to(CLI::App& app, bool with_model = true);
  /// The options with sizes parsed and --tau put into the policy. Throws Error.
  EngineOptions finish() const;
};

/// "2GiB", "512MiB", "64KiB", "1000" (bytes). Throws Error naming the option and the text.
size_t parse_size(const std::string& option, const std::string& text);

void add_sampling_options(CLI::App& app, SamplingOptions& sampling);

/// "7.4 MiB", "201 KiB", "12 B".
std::string format_bytes(double bytes);
/// "16,384".
std::string format_count(int64_t count);
/// What a sequence of `context` tokens is going to take, where; for before it is taken.
std::string format_memory(const Engine& engine, int64_t context);

}  // namespace freekv::app
