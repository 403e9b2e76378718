// The JSON of a benchmark with synthetic weights.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "backends/device_bench.hpp"
#include "synthetic/options.hpp"

namespace freekv::app {

/// Machine, commit and options, and rows as they come: an interrupted run keeps what it measured.
class Results {
 public:
  /// Writes nothing where options.json is empty. Throws Error(kIo), as add().
  Results(const SyntheticOptions& options, const BenchMachine& machine);

  /// What else was measured once: becomes a member beside the rows.
  void set(const std::string& name, nlohmann::json value) { all_[name] = std::move(value); }
  void add(nlohmann::json row);

 private:
  void write() const;

  std::string path_;
  nlohmann::json all_;
};

}  // namespace freekv::app
