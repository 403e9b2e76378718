// A decoder with prefill beside it, and what a prompt left in its tiers, for the tests of prefill.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "backends/cuda/prefill.hpp"
#include "backends/cuda/prefill_cases.hpp"
#include "backends/cuda/sequence_memory.hpp"

namespace freekv::cuda::prefill_cases {

inline constexpr double kTolerance = 1.5e-2;  // of bf16 between the matrix products
inline constexpr int64_t kContext = 1024;

inline std::vector<int32_t> prompt(int64_t tokens) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < tokens; ++i) ids.push_back(static_cast<int32_t>((i * 37 + 11) % 96));
  return ids;
}

inline PageMap map_of(int page) {
  const PageMap map{
      .page = page, .budget = 0, .sink = 1, .window = 2, .selected = 4, .resident = 6};
  PageMap result = map;
  result.budget = int64_t{page} * (map.sink + map.window + map.selected);
  return result;
}

inline RetrievalRule retrieving() {
  return {.budgeted = true, .slow = true, .selects = true, .speculative = true};
}

// A decoder with one open sequence, and prefill beside it.
struct World {
  World(const Model& model, const RetrievalRule& rule, int32_t chunk)
      : shape(model.shape()),
        decoder(shape, model.weights(), rule, map_of(shape.kv.page), {1, kContext, 1}),
        prefill(shape, model.weights(), {chunk, kContext}),
        sequence(decoder.open(kContext)) {}

  std::vector<float> run(const std::vector<int32_t>& ids, const KvPrefix& prefix = {}) {
    std::vector<float> logits(static_cast<size_t>(shape.vocab), NAN);
    prefill.run(decoder, sequence, ids, {}, logits.data(), prefix);
    EXPECT_EQ(decoder.tokens(sequence), static_cast<int64_t>(ids.size()));
    return logits;
  }
  std::vector<float> step(int32_t id) {
    decoder.step({{sequence}}, {{id}});
    std::vector<float> logits(static_cast<size_t>(shape.vocab));
    check_cuda(cudaMemcpyAsync(logits.data(), decoder.logits(), logits.size() * sizeof(float),
                               cudaMemcpyDeviceToHost, decoder.stream()),
               "the logits");
    check_cuda(cudaStreamSynchronize(decoder.stream()), "a step");
    return logits;
  }
  KvPrefix first(int64_t tokens) { return {&decoder, sequence, tokens}; }
  const SequenceLayer& layer(int32_t l) const { return decoder.layer(sequence, l); }
  DType dtype() const { return shape.kv.type == KvType::kBF16 ? DType::kBF16 : DType::kF16; }

  DecoderShape shape;
  Decoder decoder;
  Prefill prefill;
  int32_t sequence;
};

inline std::vector<uint16_t> read(const void* from, int64_t values) {
  std::vector<uint16_t> host(static_cast<size_t>(values));
  check_cuda(cudaMemcpy(host.data(), from, host.size() * sizeof(uint16_t), cudaMemcpyDefault),
             "to the host");
  return host;
}

inline std::vector<uint16_t> fast_page(const World& world, int32_t l, int32_t slot) {
  const KvGeometry& kv = world.shape.kv;
  return read(static_cast<const uint16_t*>(world.layer(l).fast) + slot * kv.slot(), kv.slot());
}

// Page `slow` [M][K|V][p][d] as the fast tier has it, [K|V][p][M][d].
inline std::vector<uint16_t> as_fast(const KvGeometry& kv, const std::vector<uint16_t>& slow) {
  std::vector<uint16_t> fast(slow.size());
  size_t at = 0;
  for (int m = 0; m < kv.kv_heads; ++m) {
    for (const bool value : {false, true}) {
      for (int t = 0; t < kv.page; ++t) {
        const int64_t to = value ? kv.fast_value(0, t, m) : kv.fast_key(0, t, m);
        for (int e = 0; e < kv.head_dim; ++e) fast[static_cast<size_t>(to + e)] = slow[at++];
      }
    }
  }
  return fast;
}

// Keys or values [T][M][d] of a layer that holds everything.
inline std::vector<float> held(const World& world, int32_t l, bool value, int64_t tokens) {
  const KvGeometry& kv = world.shape.kv;
  const int32_t pages = map_of(kv.page).pages(tokens);
  const std::vector<uint16_t> fast = read(world.layer(l).fast, pages * kv.slot());
  const auto* bytes = reinterpret_cast<const std::byte*>(fast.data());
  std::vector<float> result;
  for (int64_t t = 0; t < int64_t{pages} * kv.page; ++t) {
    for (int m = 0; m < kv.kv_heads; ++m) {
      const auto slot = static_cast<int32_t>(t / kv.page);
      const auto token = static_cast<int>(t % kv.page);
      const int64_t at = value ? kv.fast_value(slot, token, m) : kv.fast_key(slot, token, m);
      for (int e = 0; e < kv.head_dim; ++e) {
        const float x = load_element(world.dtype(), bytes, at + e);
        if (t < tokens) {
          result.push_back(x);
        } else {
          EXPECT_EQ(x, 0.0f) << "token " << t << " of " << tokens;
        }
      }
    }
  }
  return result;
}

}  // namespace freekv::cuda::prefill_cases
