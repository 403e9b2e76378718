#include "synthetic/results.hpp"

#include <fstream>

#include "freekv/error.hpp"

namespace freekv::app {
namespace {

// The names in files that are committed and drawn (benchmarks/plot_cuda.sh).
const char* kind_of(SyntheticMode mode) {
  switch (mode) {
    case SyntheticMode::kAblation:
      return "ablation";
    case SyntheticMode::kPrefill:
      return "prefill";
    case SyntheticMode::kGather:
      return "gather";
    default:
      return "decode";
  }
}

nlohmann::json json_of(const SyntheticOptions& o) {
  return {{"shape", o.shape},     {"budget", o.budget},       {"sink", o.sink},
          {"window", o.window},   {"page", o.page},           {"kv_type", o.kv_type},
          {"drift", o.drift},     {"churn", o.churn},         {"ctas", o.ctas},
          {"steps", o.steps},     {"mechanism", o.mechanism}, {"host_layout", o.host_layout},
          {"graph", !o.no_graph}, {"staging", o.staging},     {"threads", o.threads}};
}

nlohmann::json json_of(const BenchMachine& m) {
  return {{"gpu", m.gpu},
          {"memory_bytes", m.memory_bytes},
          {"sms", m.sms},
          {"compute_capability", m.compute_capability},
          {"driver", m.driver},
          {"driver_cuda", m.driver_cuda},
          {"runtime_cuda", m.runtime_cuda}};
}

}  // namespace

Results::Results(const SyntheticOptions& options, const BenchMachine& machine)
    : path_(options.json),
      all_{{"kind", kind_of(options.mode)},
           {"machine", json_of(machine)},
           {"commit", options.commit.empty() ? FREEKV_COMMIT : options.commit},
           {"options", json_of(options)},
           {"rows", nlohmann::json::array()}} {
  write();  // what cannot be written is said before anything is measured
}

void Results::add(nlohmann::json row) {
  all_["rows"].push_back(std::move(row));
  write();
}

void Results::write() const {
  if (path_.empty()) return;
  std::ofstream file(path_, std::ios::trunc);
  file << all_.dump(1) << '\n';
  file.close();
  if (!file) throw Error(ErrorCode::kIo, "cannot be written", path_);
}

}  // namespace freekv::app
