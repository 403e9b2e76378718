// Prefill against the definition of the model, what it leaves in both tiers, and decoding after it.
#include "backends/cuda/prefill.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

#include "backends/cuda/prefill_world.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

using namespace prefill_cases;

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

// Of the tokens asked for that are computed, in one chunk or several; nothing else shows.
TEST(Prefill, HandsQueriesOver) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name());
    const Model model(c);
    World world(model, retrieving(), 64), source(model, {}, 64);
    const std::vector<int32_t> ids = prompt(173);
    const Expected reference = expected(model, ids);
    const std::vector<float> logits = world.run(ids);
    source.run(ids);
    const auto row = static_cast<ptrdiff_t>(c.kv_heads * c.group * c.head_dim);
    for (const auto& [first, kept, count] : std::vector<std::array<int64_t, 3>>{{0, 0, 173},
                                                                                {64, 0, 109},
                                                                                {100, 0, 73},
                                                                                {172, 0, 1},
                                                                                {173, 0, 0},
                                                                                {0, 64, 109},
                                                                                {0, 173, 0}}) {
      SCOPED_TRACE(testing::Message() << "from " << first << ", " << kept << " taken over");
      std::vector<std::vector<float>> got;
      const auto take = [&](int layer, View<const float, 3> q) {
        EXPECT_EQ(layer, static_cast<int>(got.size()));
        EXPECT_EQ(q.shape(1) * q.shape(2), row);
        got.emplace_back(q.data(), q.data() + q.size());
      };
      std::vector<float> out(logits.size());
      world.prefill.run(world.decoder, world.sequence, ids, {}, out.data(),
                        kept > 0 ? source.first(kept) : KvPrefix{}, {first, take});
      if (kept == 0) {
        EXPECT_EQ(out, logits);
      }
      ASSERT_EQ(got.size(), count > 0 ? reference.queries.size() : 0u);
      for (size_t l = 0; l < got.size(); ++l) {
        const std::vector<double> last(reference.queries[l].end() - count * row,
                                       reference.queries[l].end());
        EXPECT_LE(distance(got[l], last), kTolerance) << l;
      }
    }
  }
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
