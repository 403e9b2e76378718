#include "backends/cuda/bench/bench_model.hpp"

#include <algorithm>
#include <cmath>

#include "backends/cuda/bench/timing.hpp"
#include "backends/cuda/page_map.hpp"
#include "backends/cuda/synthetic.hpp"
#include "core/check.hpp"

namespace freekv::cuda {
namespace {

// Of all sequences together.
DeviceModel::LayerCounters counters_of(const Decoder& decoder,
                                       const std::vector<int32_t>& sequences) {
  DeviceModel::LayerCounters sum;
  for (const int32_t sequence : sequences) {
    const RowCounters one = decoder.counters(sequence);
    sum.selections += one.selections;
    sum.pages_selected += one.pages_selected;
    sum.misses_before += one.misses_before;
    sum.misses_after += one.misses_after;
    sum.tested += one.tested;
    sum.drifted += one.drifted;
  }
  return sum;
}

DeviceModel::LayerCounters difference(const DeviceModel::LayerCounters& after,
                                      const DeviceModel::LayerCounters& before) {
  return {.selections = after.selections - before.selections,
          .pages_selected = after.pages_selected - before.pages_selected,
          .misses_before = after.misses_before - before.misses_before,
          .misses_after = after.misses_after - before.misses_after,
          .tested = after.tested - before.tested,
          .drifted = after.drifted - before.drifted};
}

}  // namespace

CudaBenchModel::CudaBenchModel(const SyntheticShape& shape)
    : shape_(decoder_shape(shape)), model_(shape, stream_) {
  const DeviceBuffer sink = device_array<uint32_t>(1);
  const DeviceBuffer& values = model_.values();
  read_.bytes = values.bytes();
  read_.read_ms = milliseconds(stream_, 10, [&] {
    read_once(values.data(), values.bytes() / 16 * 16, sink.as<uint32_t>(), stream_);
  });
}

Decoder CudaBenchModel::make_decoder(const BenchCache& cache, int batch) const {
  return Decoder(shape_, model_.weights(), cache.rule, page_map(cache.pages),
                 {batch, cache.room, cache.threads});
}

void CudaBenchModel::fill_cache(Decoder& decoder, int32_t sequence, int64_t tokens) const {
  const int64_t pages = (tokens + shape_.kv.page - 1) / shape_.kv.page;
  for (int32_t l = 0; l < shape_.layers; ++l) {
    const SequenceLayer& layer = decoder.layer(sequence, l);
    fill_random_pages(
        shape_.kv, !layer.budgeted || layer.token_major, layer.budgeted ? layer.slow : layer.fast,
        pages, static_cast<uint64_t>(1 + sequence * shape_.layers + l), 1.0f, decoder.stream());
  }
  decoder.begin(sequence, tokens);
}

std::vector<float> CudaBenchModel::logits(const Decoder& decoder, int n) const {
  std::vector<float> host(static_cast<size_t>(n) * static_cast<size_t>(shape_.vocab));
  check_cuda(cudaMemcpyAsync(host.data(), decoder.logits(), host.size() * sizeof(float),
                             cudaMemcpyDeviceToHost, decoder.stream()),
             "the logits");
  check_cuda(cudaStreamSynchronize(decoder.stream()), "a step");
  return host;
}

std::vector<float> CudaBenchModel::step(Decoder& decoder, int32_t sequence, int32_t id) const {
  decoder.step({{sequence}}, {{id}});
  return logits(decoder, 1);
}

double CudaBenchModel::check_decode(const BenchCache& dense, const BenchCache& sparse) {
  constexpr int kSteps = 8;
  const int64_t context = std::min<int64_t>(sparse.pages.budget, 1024) - kSteps;
  std::vector<std::vector<float>> seen;
  for (const BenchCache* cache : {&dense, &sparse}) {
    Decoder decoder = make_decoder(*cache, 1);
    const int32_t sequence = decoder.open(cache->room);
    fill_cache(decoder, sequence, context);
    for (int32_t i = 0; i < kSteps; ++i) decoder.step({{sequence}}, {{7 + i}});
    seen.push_back(logits(decoder, 1));
  }
  double difference = 0, size = 0;
  bool finite = true;
  for (size_t i = 0; i < seen[0].size(); ++i) {
    finite = finite && std::isfinite(seen[0][i]) && std::isfinite(seen[1][i]);
    difference = std::max<double>(difference, std::abs(seen[0][i] - seen[1][i]));
    size = std::max<double>(size, std::abs(seen[0][i]));
  }
  check_internal(finite && size > 0 && difference <= 1e-2 * size,
                 "retrieval within its budget differs from dense attention by {} of {}: nothing is "
                 "timed",
                 difference, size);
  return difference / size;
}

DecodeTimes CudaBenchModel::time_decode(const BenchCache& cache, const DecodeRun& run) {
  check_argument(cache.room >= run.room(), "a sequence has room for {} tokens, the run takes {}",
                 cache.room, run.room());
  Decoder decoder = make_decoder(cache, run.batch);
  const Decoder::Footprint one = decoder.footprint(cache.room);
  const auto n = static_cast<size_t>(run.batch);
  DecodeTimes result;
  result.size = {n * one.fast, n * one.slow, n * (one.sketch + one.tables)};
  if (run.announce) run.announce(result.size);
  std::vector<int32_t> sequences, ids;
  for (int b = 0; b < run.batch; ++b) {
    sequences.push_back(decoder.open(cache.room));
    fill_cache(decoder, sequences.back(), run.context);
    ids.push_back(11 + b);
  }
  for (int i = 0; i < run.warmup; ++i) decoder.step(sequences, ids);
  const DeviceModel::LayerCounters before = counters_of(decoder, sequences);
  result.ms = milliseconds(decoder.stream(), run.steps, [&] {
    decoder.step(sequences, ids);
    ++result.steps;
  });
  result.counters = difference(counters_of(decoder, sequences), before);
  const std::vector<float> last = logits(decoder, run.batch);
  const bool finite =
      std::all_of(last.begin(), last.end(), [](float value) { return std::isfinite(value); });
  check_internal(finite, "after steps at {} tokens {} logits are not all finite", run.context,
                 last.size());
  return result;
}

}  // namespace freekv::cuda
