#include "cuda/decode_bench.hpp"

#include <cmath>

namespace freekv::bench {
namespace {

void set_mechanism(RetrievalRule& rule, const Options& options) {
  if (options.mechanism == "streamed") {
    rule.mechanism = Mechanism::kStreamed;
  } else if (options.mechanism == "per-page") {
    rule.mechanism = Mechanism::kPerPage;
  } else {
    check_argument(options.mechanism == "gather",
                   "mechanism is \"{}\", must be gather, streamed or per-page", options.mechanism);
  }
  if (options.host_layout == "token-major") {
    rule.host_layout = HostLayout::kTokenMajor;
  } else {
    check_argument(options.host_layout == "head-major",
                   "host layout is \"{}\", must be head-major or token-major", options.host_layout);
  }
  rule.staging_buffers = options.staging;
}

RetrievalRule rule_of(const std::string& policy, const Options& options) {
  RetrievalRule rule;
  rule.gather_ctas = options.ctas;
  rule.forced_churn = options.churn;
  rule.use_graph = !options.no_graph;
  if (policy == "full") return rule;
  rule.selects = true;
  if (policy == "quest") return rule;
  rule.budgeted = rule.slow = true;
  set_mechanism(rule, options);
  if (policy == "blocking") return rule;
  rule.speculative = true;
  rule.forced_drift = options.drift;
  check_argument(policy == "freekv", "policy is \"{}\", must be full, quest, blocking or freekv",
                 policy);
  return rule;
}

PageMap map_of(const DecoderShape& shape, const Options& options, int64_t context) {
  return page_map(shape, {options.budget, options.sink, options.window}, options.resident, context);
}

void fill_cache(Decoder& decoder, const DecoderShape& shape, int32_t sequence, int64_t tokens) {
  for (int32_t l = 0; l < shape.layers; ++l) {
    const SequenceLayer& layer = decoder.layer(sequence, l);
    const int64_t pages = (tokens + shape.kv.page - 1) / shape.kv.page;
    fill_random_pages(
        shape.kv, !layer.budgeted || layer.token_major, layer.budgeted ? layer.slow : layer.fast,
        pages, static_cast<uint64_t>(1 + sequence * shape.layers + l), 1.0f, decoder.stream());
  }
  decoder.begin(sequence, tokens);
}

std::vector<float> logits_of(Decoder& decoder, int64_t count) {
  std::vector<float> host(static_cast<size_t>(count));
  check_cuda(cudaMemcpyAsync(host.data(), decoder.logits(), host.size() * sizeof(float),
                             cudaMemcpyDeviceToHost, decoder.stream()),
             "the logits");
  check_cuda(cudaStreamSynchronize(decoder.stream()), "a step");
  return host;
}

// Of all sequences together.
RowCounters counters_of(const Decoder& decoder, const std::vector<int32_t>& sequences) {
  RowCounters sum;
  for (const int32_t sequence : sequences) {
    const RowCounters one = decoder.counters(sequence);
    sum.misses_before += one.misses_before;
    sum.misses_after += one.misses_after;
    sum.tested += one.tested;
    sum.drifted += one.drifted;
  }
  return sum;
}

double share(unsigned long long part, unsigned long long whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

}  // namespace

nlohmann::json to_json(const Options& o) {
  return {{"shape", o.shape},     {"budget", o.budget},       {"sink", o.sink},
          {"window", o.window},   {"page", o.page},           {"resident", o.resident},
          {"drift", o.drift},     {"churn", o.churn},         {"ctas", o.ctas},
          {"steps", o.steps},     {"mechanism", o.mechanism}, {"host_layout", o.host_layout},
          {"graph", !o.no_graph}, {"staging", o.staging}};
}

void check_output(const Subject& subject, const Options& options) {
  const DecoderShape& shape = subject.named.shape;
  const int64_t context = std::min<int64_t>(options.budget, 1024);
  std::vector<std::vector<float>> logits;
  for (const char* policy : {"full", "freekv"}) {
    // One page more than the budget may hold, so that the layers are built to retrieve.
    const int64_t room = options.budget + 4 * options.page;
    Decoder decoder(shape, subject.model.weights(), rule_of(policy, options),
                    map_of(shape, options, room), {1, room, options.threads});
    const int32_t sequence = decoder.open(room);
    fill_cache(decoder, shape, sequence, context - 8);
    for (int32_t i = 0; i < 8; ++i) decoder.step({{sequence}}, {{7 + i}});
    logits.push_back(logits_of(decoder, shape.vocab));
  }
  double difference = 0, size = 0;
  for (size_t i = 0; i < logits[0].size(); ++i) {
    difference = std::max<double>(difference, std::abs(logits[0][i] - logits[1][i]));
    size = std::max<double>(size, std::abs(logits[0][i]));
  }
  const bool same = std::isfinite(size) && size > 0 && difference <= 1e-2 * size;
  if (!same) {
    fail(ErrorCode::kInternal,
         "freekv within its budget differs from dense attention by {} of {}: nothing is timed",
         difference, size);
  }
}

nlohmann::json measure(const Subject& subject, const Options& options, const std::string& policy,
                       int64_t context, int batch) {
  const DecoderShape& shape = subject.named.shape;
  const int64_t room = context + 4 * options.steps + 64;
  Decoder decoder(shape, subject.model.weights(), rule_of(policy, options),
                  map_of(shape, options, room), {batch, room, options.threads});
  const Decoder::Footprint size = decoder.footprint(room);
  const auto n = static_cast<size_t>(batch);
  fmt::print(stderr, "{} {} x {}: {} MiB fast, {} MiB host, {} MiB sketches\n", policy, context,
             batch, (size.fast * n) >> 20, (size.slow * n) >> 20, (size.sketch * n) >> 20);
  std::vector<int32_t> sequences, ids;
  for (int b = 0; b < batch; ++b) {
    sequences.push_back(decoder.open(room));
    fill_cache(decoder, shape, sequences.back(), context);
    ids.push_back(11 + b);
  }
  for (int i = 0; i < options.warmup; ++i) decoder.step(sequences, ids);
  const RowCounters before = counters_of(decoder, sequences);
  int steps = 0;
  const double ms = milliseconds(decoder.stream(), options.steps, [&] {
    decoder.step(sequences, ids);
    ++steps;
  });
  const RowCounters after = counters_of(decoder, sequences);
  const std::vector<float> logits = logits_of(decoder, int64_t{batch} * shape.vocab);
  const bool finite =
      std::all_of(logits.begin(), logits.end(), [](float value) { return std::isfinite(value); });
  check_internal(finite, "{} at {} tokens: {} logits are not all finite", policy, context,
                 logits.size());
  const double page_bytes = 2.0 * static_cast<double>(shape.kv.head_page());
  const auto waited = static_cast<double>(after.misses_before - before.misses_before);
  const auto ahead = static_cast<double>(after.misses_after - before.misses_after);
  const double recalled = (waited + ahead) * page_bytes / steps;
  return {{"shape", subject.named.name},
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
          {"timed_steps", steps},
          {"decode_ms", ms},
          {"weights_ms", subject.weights_ms},
          {"ratio_to_weights", ms / subject.weights_ms},
          {"hbm_share", subject.weights_ms / ms},
          {"fast_kv_bytes", size.fast * n},
          {"slow_kv_bytes", size.slow * n},
          {"sketch_bytes", size.sketch * n},
          {"bytes_recalled_per_step", recalled},
          {"bytes_recalled_before_attention", waited * page_bytes / steps},
          {"recall_GB_s", recalled / ms * 1e-6},
          {"link_GB_s", subject.link_GB_s},
          {"link_share", recalled / ms * 1e-6 / subject.link_GB_s},
          {"drift_rate", share(after.drifted - before.drifted, after.tested - before.tested)}};
}

}  // namespace freekv::bench
