#include "synthetic/bench.hpp"

#include <fmt/format.h>

#include "backends/device_library.hpp"
#include "synthetic/tables.hpp"

namespace freekv::app {
namespace {

// What cannot be is said before weights are made up.
void check_policies(const SyntheticOptions& options) {
  for (const std::string& policy : options.policies) cache_of(options, policy, 2 * options.budget);
}

void bench_model(const DeviceBench& bench, const SyntheticOptions& options,
                 const BenchMachine& machine, Results& results) {
  const double link_GB_s = bench.link_GB_s();
  const SyntheticShape shape = shape_of(options);
  const auto model = bench.make_model(shape);
  const Subject subject{*model, shape, model->weights(), link_GB_s};
  results.set("link_GB_s", link_GB_s);
  results.set("weights_bytes", subject.weights.bytes);
  results.set("weights_GB_s", subject.read_GB_s());
  fmt::print(
      "{} with synthetic weights and KV, {} KV, on {}: weights {:.2f} GB, read once in "
      "{:.3f} ms ({:.0f} GB/s); link {:.1f} GB/s\n",
      options.shape, options.kv_type, machine.gpu,
      static_cast<double>(subject.weights.bytes) * 1e-9, subject.weights.read_ms,
      subject.read_GB_s(), link_GB_s);
  switch (options.mode) {
    case SyntheticMode::kAblation:
      return ablation_table(subject, options, results);
    case SyntheticMode::kPrefill:
      return prefill_table(subject, options, results);
    default:
      return decode_table(subject, options, results);
  }
}

}  // namespace

void bench_synthetic(const SyntheticOptions& options) {
  if (options.mode != SyntheticMode::kGather) check_policies(options);
  const auto bench = load_device_library().bench();
  const BenchMachine machine = bench->machine();
  Results results(options, machine);
  if (options.mode == SyntheticMode::kGather) {
    results.set("link_GB_s", bench->link_GB_s());
    gather_table(*bench, results);
  } else {
    bench_model(*bench, options, machine, results);
  }
}

}  // namespace freekv::app
