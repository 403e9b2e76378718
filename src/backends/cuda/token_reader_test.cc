#include "backends/cuda/token_reader.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/cuda/prefill_world.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

using namespace prefill_cases;

constexpr int32_t kChunk = 64;

struct Tokens {
  Tokens(const KvGeometry& kv, int64_t count)
      : size(count * kv.kv_heads * kv.head_dim),
        k(static_cast<size_t>(size), NAN),
        v(k),
        keys(k.data(), count, kv.kv_heads, kv.head_dim),
        values(v.data(), count, kv.kv_heads, kv.head_dim) {}

  int64_t size;
  std::vector<float> k, v;
  View<float, 3> keys, values;
};

// From either tier, the window's ring too, at every place of a page, also after steps.
TEST(TokenReader, BringsWhatPrefillMade) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name());
    const Model model(c);
    const std::vector<int32_t> ids = prompt(map_of(c.page).budget + 2 * c.page + 5);
    const auto size = static_cast<int64_t>(ids.size());
    World dense(model, {}, kChunk), sparse(model, retrieving(), kChunk);
    dense.run(ids);
    sparse.run(ids);
    for (int32_t i = 0; i < 3; ++i) sparse.step(i);
    TokenReader reader;  // one for all: it keeps memory of other sizes
    const KvGeometry& kv = dense.shape.kv;
    for (const auto& [first, count] : std::vector<std::pair<int64_t, int64_t>>{
             {0, size}, {0, 1}, {c.page - 1, 2}, {c.page, c.page}, {size - 1, 1}, {7, size - 9}}) {
      for (int32_t l = 0; l < dense.shape.layers; ++l) {
        SCOPED_TRACE(testing::Message() << count << " tokens from " << first << ", layer " << l);
        Tokens got(kv, count);
        reader.read(sparse.decoder, sparse.sequence, l, first, got.keys, got.values);
        const int64_t row = int64_t{kv.kv_heads} * kv.head_dim;
        for (const bool value : {false, true}) {
          const std::vector<float> all = held(dense, l, value, size);
          EXPECT_TRUE(std::equal(all.begin() + first * row, all.begin() + (first + count) * row,
                                 (value ? got.v : got.k).begin()));
        }
      }
    }
  }
}

TEST(TokenReader, RefusesWhatIsNotThere) {
  const Model model(kCases[0]);
  World world(model, retrieving(), kChunk);
  world.run(prompt(40));
  const KvGeometry& kv = world.shape.kv;
  TokenReader reader;
  Tokens two(kv, 2);
  EXPECT_THROW(reader.read(world.decoder, world.sequence, 0, 39, two.keys, two.values), Error);
  EXPECT_THROW(reader.read(world.decoder, world.sequence, 0, -1, two.keys, two.values), Error);
  KvGeometry wide = kv;
  wide.kv_heads += 1;
  Tokens other(wide, 2);
  EXPECT_THROW(reader.read(world.decoder, world.sequence, 0, 0, other.keys, other.values), Error);
  EXPECT_NO_THROW(reader.read(world.decoder, world.sequence, 0, 38, two.keys, two.values));
}

}  // namespace
}  // namespace freekv::cuda
