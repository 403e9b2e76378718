// The prompts of CudaBenchModel, as the engine runs them.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "backends/cuda/bench/bench_model.hpp"
#include "backends/cuda/prefill.hpp"
#include "core/check.hpp"

namespace freekv::cuda {
namespace {

std::vector<int32_t> prompt_of(int64_t tokens, int32_t vocab) {
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(tokens));
  uint32_t state = 1;
  for (int64_t i = 0; i < tokens; ++i) {
    state = state * 1664525u + 1013904223u;
    ids.push_back(static_cast<int32_t>((state >> 8) % static_cast<uint32_t>(vocab)));
  }
  return ids;
}

double distance(const std::vector<float>& actual, const std::vector<float>& expected) {
  double squares = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    squares += std::pow(static_cast<double>(actual[i]) - expected[i], 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(squares / size);
}

size_t used_device_bytes() {
  size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return total - free;
}

}  // namespace

BenchModel::PrefillDifference CudaBenchModel::check_prefill(const BenchCache& cache) {
  // Within the budget, where retrieval is exact.
  const int64_t tokens = std::min<int64_t>(300, cache.pages.budget - 1);
  const std::vector<int32_t> ids = prompt_of(tokens + 1, shape_.vocab);
  Decoder decoder = make_decoder(cache, 1);
  const int32_t sequence = decoder.open(cache.room);
  decoder.begin(sequence, 0);
  std::vector<float> expected, next;
  for (const int32_t id : ids) expected = std::exchange(next, step(decoder, sequence, id));
  // Several chunks, so that a later one reads what an earlier one left.
  Prefill prefill(shape_, model_.weights(), {4 * shape_.kv.page, tokens});
  std::vector<float> actual(expected.size());
  prefill.run(decoder, sequence, std::span(ids).first(static_cast<size_t>(tokens)), {},
              actual.data());
  const PrefillDifference result{distance(actual, expected),
                                 distance(step(decoder, sequence, ids.back()), next)};
  // bf16 between the products of every layer, against f32; what it costs grows with the depth.
  const double allowed = 0.05;
  check_internal(result.of_prompt <= allowed && result.of_next_step <= allowed,
                 "logits of a prompt differ by {:.4f} from its tokens one by one, of the next step "
                 "by {:.4f}, allowed are {}: nothing is timed",
                 result.of_prompt, result.of_next_step, allowed);
  return result;
}

PrefillTimes CudaBenchModel::time_prefill(const BenchCache& cache, const PrefillRun& run) {
  Decoder decoder = make_decoder(cache, 1);
  const int32_t sequence = decoder.open(cache.room);
  Prefill prefill(shape_, model_.weights(), {run.chunk, run.tokens});
  const std::vector<int32_t> ids = prompt_of(run.tokens, shape_.vocab);
  std::vector<float> logits(static_cast<size_t>(shape_.vocab));
  PrefillTimes result;
  result.prefill_bytes = prefill.bytes(run.tokens);
  result.slow_kv_bytes = decoder.footprint(cache.room).slow;
  // A short prompt first loads kernels and chooses algorithms.
  const std::vector<int32_t> warm(ids.begin(), ids.begin() + std::min<int64_t>(run.tokens, 1024));
  prefill.run(decoder, sequence, warm, {}, logits.data());
  std::vector<double> times;
  for (int i = 0; i < run.rounds; ++i) {
    const auto look = [&](int64_t) {
      if (result.peak_device_bytes == 0) result.peak_device_bytes = used_device_bytes();
      return true;
    };
    const auto start = std::chrono::steady_clock::now();
    prefill.run(decoder, sequence, ids, look, logits.data());
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    times.push_back(took.count());
  }
  std::sort(times.begin(), times.end());
  result.ms = times[times.size() / 2];
  const bool finite =
      std::all_of(logits.begin(), logits.end(), [](float value) { return std::isfinite(value); });
  check_internal(finite, "a prompt of {} tokens: {} logits are not all finite", run.tokens,
                 logits.size());
  return result;
}

}  // namespace freekv::cuda
