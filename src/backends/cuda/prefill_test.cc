// Prefill against the definition of the model, what it leaves in both tiers, and decoding after it.
#include "backends/cuda/prefill.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/cuda/prefill_cases.hpp"
#include "backends/cuda/sequence_memory.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

using namespace prefill_cases;

constexpr double kTolerance = 1.5e-2;  // of bf16 between the matrix products
constexpr int64_t kContext = 1024;

std::vector<int32_t> prompt(int64_t tokens) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < tokens; ++i) ids.push_back(static_cast<int32_t>((i * 37 + 11) % 96));
  return ids;
}

PageMap map_of(int page) {
  const PageMap map{
      .page = page, .budget = 0, .sink = 1, .window = 2, .selected = 4, .resident = 6};
  PageMap result = map;
  result.budget = int64_t{page} * (map.sink + map.window + map.selected);
  return result;
}

RetrievalRule retrieving() {
  return {.budgeted = true, .slow = true, .selects = true, .speculative = true};
}

// A decoder with one open sequence, and prefill beside it.
struct World {
  World(const Model& model, const RetrievalRule& rule, int32_t chunk)
      : shape(model.shape()),
        decoder(shape, model.weights(), rule, map_of(shape.kv.page), {1, kContext, 1}),
        prefill(shape, model.weights(), {chunk, kContext}),
        sequence(decoder.open(kContext)) {}

  std::vector<float> run(const std::vector<int32_t>& ids) {
    std::vector<float> logits(static_cast<size_t>(shape.vocab), NAN);
    prefill.run(decoder, sequence, ids, {}, logits.data());
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
  const SequenceLayer& layer(int32_t l) const { return decoder.layer(sequence, l); }
  DType dtype() const { return shape.kv.type == KvType::kBF16 ? DType::kBF16 : DType::kF16; }

  DecoderShape shape;
  Decoder decoder;
  Prefill prefill;
  int32_t sequence;
};

std::vector<uint16_t> read(const void* from, int64_t values) {
  std::vector<uint16_t> host(static_cast<size_t>(values));
  check_cuda(cudaMemcpy(host.data(), from, host.size() * sizeof(uint16_t), cudaMemcpyDefault),
             "to the host");
  return host;
}

std::vector<uint16_t> fast_page(const World& world, int32_t l, int32_t slot) {
  const KvGeometry& kv = world.shape.kv;
  return read(static_cast<const uint16_t*>(world.layer(l).fast) + slot * kv.slot(), kv.slot());
}

// Page `slow` [M][K|V][p][d] as the fast tier has it, [K|V][p][M][d].
std::vector<uint16_t> as_fast(const KvGeometry& kv, const std::vector<uint16_t>& slow) {
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
std::vector<float> held(const World& world, int32_t l, bool value, int64_t tokens) {
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

// --- tests ---------------------------------------------------------------------------------------

TEST(Prefill, AgreesWithTheDefinition) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name());
    const Model model(c);
    World world(model, {}, 64);
    for (const int64_t tokens : {1, c.page - 1, c.page, c.page + 1, 64, 65, 173}) {
      SCOPED_TRACE(tokens);
      const std::vector<int32_t> ids = prompt(tokens);
      const Expected reference = expected(model, ids);
      EXPECT_LE(distance(world.run(ids), reference.logits), kTolerance);
      for (int32_t l = 0; l < world.shape.layers; ++l) {
        const auto at = static_cast<size_t>(l);
        EXPECT_LE(distance(held(world, l, false, tokens), reference.keys[at]), kTolerance) << l;
        EXPECT_LE(distance(held(world, l, true, tokens), reference.values[at]), kTolerance) << l;
      }
    }
  }
}

TEST(Prefill, ChunksDoNotShow) {
  const Model model(kCases[0]);
  World whole(model, {}, 256), parts(model, {}, 16);
  const std::vector<int32_t> ids = prompt(201);
  EXPECT_LE(distance(parts.run(ids), whole.run(ids)), kTolerance);
  EXPECT_LE(distance(held(parts, 2, true, 201), held(whole, 2, true, 201)), kTolerance);
}

// The tiers of a layer with a budget hold what one that holds everything does, to the bit.
TEST(Prefill, PagesAndSketchesStandWhereTheDecoderReadsThem) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name());
    const Model model(c);
    World all(model, {}, 64), some(model, retrieving(), 64);
    const KvGeometry& kv = all.shape.kv;
    const PageMap map = map_of(c.page);
    for (const int64_t tokens :
         {int64_t{1}, map.budget - 3, map.budget + 1, map.budget + 3 * c.page}) {
      SCOPED_TRACE(tokens);
      const std::vector<int32_t> ids = prompt(tokens);
      EXPECT_EQ(all.run(ids), some.run(ids));
      for (int32_t l = 0; l < all.shape.layers; ++l) {
        SCOPED_TRACE(l);
        const SequenceLayer& layer = some.layer(l);
        ASSERT_TRUE(layer.budgeted);
        const auto complete = static_cast<int32_t>(tokens / c.page);
        for (int32_t page = 0; page < complete; ++page) {
          const auto* slow = static_cast<const uint16_t*>(layer.slow) + page * kv.slot();
          EXPECT_TRUE(as_fast(kv, read(slow, kv.slot())) == fast_page(all, l, page)) << page;
        }
        for (const Move& move : common_pages(map, tokens)) {
          EXPECT_TRUE(fast_page(some, l, map.sink + move.slot) == fast_page(all, l, move.page))
              << move.page;
        }
        const int64_t sketch = int64_t{kv.kv_heads} * layer.max_pages * 2 * kv.head_dim;
        const std::vector<uint16_t> from_keys = read(layer.sketch, sketch);
        Stream stream;
        check_cuda(cudaMemsetAsync(layer.sketch, 0xff, static_cast<size_t>(sketch) * 2, stream),
                   "the sketches");
        sketch_pages({.kv = kv, .layer = layer, .first = 0, .count = complete}, stream);
        stream.synchronize();
        const std::vector<uint16_t> from_tier = read(layer.sketch, sketch);
        const int64_t row = int64_t{2} * kv.head_dim;
        for (int64_t m = 0; m < kv.kv_heads; ++m) {
          const int64_t begin = m * layer.max_pages * row;
          EXPECT_TRUE(std::equal(from_keys.begin() + begin,
                                 from_keys.begin() + begin + complete * row,
                                 from_tier.begin() + begin))
              << m;
        }
      }
    }
  }
}

// Within the budget, and past it while everything is selected, retrieval is dense attention.
TEST(Prefill, DecodingGoesOnWhereItEnds) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name());
    const Model model(c);
    const int64_t budget = map_of(c.page).budget;
    for (const RetrievalRule& rule : {RetrievalRule{}, retrieving()}) {
      SCOPED_TRACE(rule.budgeted);
      World world(model, rule, 64), longer(model, rule, 64);
      for (const int64_t tokens : {int64_t{1}, int64_t{c.page} - 1, int64_t{70}, budget - 2}) {
        SCOPED_TRACE(tokens);
        const std::vector<int32_t> ids = prompt(tokens + 6);
        const std::vector<int32_t> before(ids.begin(), ids.begin() + tokens);
        world.run(before);
        for (int64_t t = tokens; t < tokens + 6; ++t) {
          const std::vector<int32_t> with(ids.begin(), ids.begin() + t + 1);
          EXPECT_LE(distance(world.step(ids[static_cast<size_t>(t)]), longer.run(with)), 2e-2) << t;
        }
      }
    }
  }
}

TEST(Prefill, TellsHowFarItIsAndStops) {
  const Model model(kCases[0]);
  World world(model, retrieving(), 16);
  const std::vector<int32_t> ids = prompt(40);
  std::vector<float> logits(96);
  std::vector<int64_t> told;
  const auto count = [&](int64_t done) {
    told.push_back(done);
    return true;
  };
  world.prefill.run(world.decoder, world.sequence, ids, count, logits.data());
  EXPECT_THAT(told, testing::ElementsAre(5, 10, 13, 18, 24, 26, 32, 37, 40));
  const auto stop = [&](int64_t done) { return done < 20; };
  try {
    world.prefill.run(world.decoder, world.sequence, ids, stop, logits.data());
    ADD_FAILURE() << "not stopped";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled) << error.what();
  }
  EXPECT_EQ(world.run(ids), logits);
}

TEST(Prefill, LogitsGoToDeviceMemoryToo) {
  const Model model(kCases[0]);
  World world(model, {}, 64);
  const DeviceBuffer logits = device_array<float>(96);
  const std::vector<int32_t> ids = prompt(20);
  world.prefill.run(world.decoder, world.sequence, ids, {}, logits.as<float>());
  EXPECT_EQ(to_host<float>(logits), world.run(ids));
}

TEST(Prefill, RefusesWhatItCannotDo) {
  const Model model(kCases[0]);
  World world(model, {}, 64);
  std::vector<float> logits(96);
  const auto run = [&](const std::vector<int32_t>& ids) {
    world.prefill.run(world.decoder, world.sequence, ids, {}, logits.data());
  };
  EXPECT_THROW(run({}), Error);
  EXPECT_THROW(run({96}), Error);
  EXPECT_THROW(run({3, -1}), Error);
  EXPECT_THROW(run(prompt(kContext + 1)), Error);
  EXPECT_NO_THROW(run({3}));
  EXPECT_THROW(Prefill(model.shape(), model.weights(), {24, 100}), Error);
  DecoderShape odd = model.shape();
  odd.kv.head_dim = 72;
  EXPECT_THROW(Prefill(odd, model.weights(), {64, 100}), Error);
}

TEST(Prefill, SaysHowMuchMemoryIsMissing) {
  const Case& c = kCases[0];
  DecoderShape shape = c.shape();
  shape.layers = 1;
  shape.hidden = 1 << 17;  // 512 GiB of residual stream
  DecoderWeights weights;
  weights.layers.resize(1);
  const int64_t tokens = int64_t{1} << 20;
  Decoder decoder(shape, weights, {}, map_of(c.page), {1, tokens, 1});
  Prefill prefill(shape, weights, {64, tokens});
  const int32_t sequence = decoder.open(tokens);
  try {
    prefill.run(decoder, sequence, std::vector<int32_t>(static_cast<size_t>(tokens), 1), {},
                nullptr);
    ADD_FAILURE() << "there was memory";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
    EXPECT_THAT(error.what(), testing::HasSubstr(std::to_string(prefill.bytes(tokens))));
  }
}

}  // namespace
}  // namespace freekv::cuda
