#include "synthetic/cell.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "core/check.hpp"
#include "kvcache/page_layout.hpp"
#include "policies/policy.hpp"
#include "synthetic/shapes.hpp"

namespace freekv::app {
namespace {

const std::string kBlocking = "blocking";

Mechanism mechanism_of(const std::string& name) {
  if (name == "streamed") return Mechanism::kStreamed;
  return name == "per-page" ? Mechanism::kPerPage : Mechanism::kGather;
}

/// What the benchmark adds to a policy's own rule.
RetrievalRule bench_rule(RetrievalRule rule, const SyntheticOptions& options) {
  rule.gather_ctas = options.ctas;
  rule.use_graph = !options.no_graph;
  rule.forced_churn = static_cast<float>(options.churn);
  if (rule.speculative) rule.forced_drift = static_cast<float>(options.drift);
  if (!rule.slow) return rule;
  rule.mechanism = mechanism_of(options.mechanism);
  rule.host_layout =
      options.host_layout == "token-major" ? HostLayout::kTokenMajor : HostLayout::kHeadMajor;
  rule.staging_buffers = options.staging;
  return rule;
}

struct Reads {
  double kv = 0;
  double sketches = 0;
};

/// Bytes that one sequence's attention and selection read in a step, all layers.
Reads reads_of(const Subject& subject, const BenchCache& cache, int64_t context) {
  const SyntheticShape& shape = subject.shape;
  const DevicePages& pages = cache.pages;
  const auto token_bytes = static_cast<double>(shape.kv.slot_bytes()) / shape.kv.page;
  const int64_t layers = shape.layers;
  const bool sparse = cache.rule.selects && context > pages.budget;
  const int64_t dense_layers = sparse ? std::min<int64_t>(layers, cache.rule.dense_layers) : layers;
  const double everything = static_cast<double>(context) * token_bytes;
  Reads reads{static_cast<double>(dense_layers) * everything, 0};
  if (dense_layers == layers) return reads;
  const auto rest = static_cast<double>(layers - dense_layers);
  const int64_t whole = int64_t{pages.sink} + pages.window;
  reads.kv += rest * static_cast<double>((whole + pages.selected) * pages.page) * token_bytes;
  // A sketch of a page is two vectors per head, where the page has 2p, and with key2 2 bits for
  // each value of a key.
  const auto candidates = static_cast<double>(context / pages.page - whole);
  const bool levels = cache.rule.sketch == SketchKind::kKey2;
  reads.sketches = rest * candidates * token_bytes * (1 + (levels ? pages.page / 16.0 : 0.0));
  return reads;
}

double share(uint64_t part, uint64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

}  // namespace

SyntheticShape shape_of(const SyntheticOptions& options) {
  SyntheticShape shape = find_shape(options.shape);
  shape.kv.page = options.page;
  if (options.kv_type == "f16") shape.kv.dtype = DType::kF16;
  return shape;
}

BenchCache cache_of(const SyntheticOptions& options, const std::string& policy, int64_t room) {
  const bool blocking = policy == kBlocking || policy.starts_with(kBlocking + ":");
  const auto method = make_policy(blocking ? "freekv" + policy.substr(kBlocking.size()) : policy);
  auto rule = method->device_rule();
  if (!rule) {
    fail(ErrorCode::kUnsupported,
         "policy {} does not run on backend cuda; with their default keys these do: {}, {}", policy,
         kBlocking, device_policy_names());
  }
  if (rule->coverage) {
    fail(ErrorCode::kUnsupported,
         "policy {} corrects by attention mass, which made-up KV says nothing about, while --shape "
         "forces drift and churn: it is measured with a model (-m)",
         policy);
  }
  if (blocking) rule->speculative = false;
  const SyntheticShape shape = shape_of(options);
  const CacheConfig config{.layers = shape.layers,
                           .query_heads = shape.query_heads,
                           .shape = shape.kv,
                           .max_context = room,
                           .tokens = {options.budget, options.sink, options.window}};
  const PageLayout layout(config, method->plan(config));
  return {.rule = bench_rule(*rule, options),
          .pages = {.page = layout.page(),
                    .budget = options.budget,
                    .sink = layout.sink_pages(),
                    .window = layout.window_pages(),
                    .selected = layout.selected(),
                    .resident = layout.resident()},
          .room = room,
          .threads = options.threads};
}

void check_decode(const Subject& subject, const SyntheticOptions& options) {
  // A few pages more than the budget may hold, so that the layers are built to retrieve.
  const int64_t room = options.budget + 4 * options.page;
  const double difference = subject.model.check_decode(cache_of(options, "full", room),
                                                       cache_of(options, "freekv", room));
  fmt::print("checked: freekv within its budget gives dense attention's logits to {:.1e}\n",
             difference);
}

nlohmann::json measure(const Subject& subject, const SyntheticOptions& options,
                       const std::string& policy, int64_t context, int batch) {
  DecodeRun run{.context = context,
                .batch = batch,
                .warmup = static_cast<int>(options.warmup),
                .steps = static_cast<int>(options.steps),
                .announce = {}};
  run.announce = [&](const DeviceModel::Footprint& size) {
    fmt::print(stderr, "{} {} x {}: {} MiB fast, {} MiB host, {} MiB sketches\n", policy, context,
               batch, size.fast >> 20, size.slow >> 20, size.sketch >> 20);
  };
  const BenchCache cache = cache_of(options, policy, run.room());
  const DecodeTimes times = subject.model.time_decode(cache, run);
  const double ms = times.ms, weights_ms = subject.weights.read_ms;
  const auto page_bytes = static_cast<double>(subject.shape.kv.head_page_bytes());
  const double waited =
      static_cast<double>(times.counters.misses_before) * page_bytes / times.steps;
  const double recalled =
      waited + static_cast<double>(times.counters.misses_after) * page_bytes / times.steps;
  // On average over the timed steps, each of which adds a token.
  const Reads reads = reads_of(subject, cache, context + options.warmup + times.steps / 2);
  const double read =
      static_cast<double>(subject.weights.bytes) + batch * (reads.kv + reads.sketches);
  return {{"shape", options.shape},
          {"weights", "synthetic"},
          {"policy", policy},
          {"context", context},
          {"batch", batch},
          {"mechanism", options.mechanism},
          {"host_layout", options.host_layout},
          {"graph", !options.no_graph},
          {"staging", options.staging},
          {"drift", options.drift},
          {"churn", options.churn},
          {"timed_steps", times.steps},
          {"decode_ms", ms},
          {"weights_ms", weights_ms},
          {"ratio_to_weights", ms / weights_ms},
          {"hbm_share", weights_ms / ms},
          {"read_bytes_per_step", read},
          {"kv_read_bytes_per_step", batch * reads.kv},
          {"sketch_read_bytes_per_step", batch * reads.sketches},
          {"read_share", read / ms * 1e-6 / subject.read_GB_s()},
          {"fast_kv_bytes", times.size.fast},
          {"slow_kv_bytes", times.size.slow},
          {"sketch_bytes", times.size.sketch},
          {"bytes_recalled_per_step", recalled},
          {"bytes_recalled_before_attention", waited},
          {"recall_GB_s", recalled / ms * 1e-6},
          {"link_GB_s", subject.link_GB_s},
          {"link_share", recalled / ms * 1e-6 / subject.link_GB_s},
          {"drift_rate", share(times.counters.drifted, times.counters.tested)}};
}

}  // namespace freekv::app
