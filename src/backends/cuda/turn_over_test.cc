#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "backends/cuda/recall.hpp"
#include "backends/cuda/recall_cases.hpp"
#include "backends/reference/selection.hpp"
#include "core/dtype.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

using cases::kPoison;
using cases::LayerKind;
using cases::Sizes;
using cases::Values;
using cases::World;

constexpr uint16_t kNaN = 0x7fff;  // in the model: any NaN

// Every combination that a layer can be, and some that only a wrong test of flags would tell apart.
const std::vector<LayerKind> kKinds = {{true, true, true},
                                       {true, true, false},
                                       {true, true, true, true},
                                       {true, false, false},
                                       {false, false, true},
                                       {false, false, false},
                                       {true, true, true, false, SketchKind::kKey2},
                                       {false, false, true, false, SketchKind::kKey2}};

float load(const World& world, const uint16_t* values, int64_t at) {
  return load_element(dtype_of(world.sizes().kv.type), reinterpret_cast<const std::byte*>(values),
                      at);
}

uint16_t stored(const World& world, float value) {
  if (std::isnan(value)) return kNaN;
  uint16_t bits = 0;
  store_element(dtype_of(world.sizes().kv.type), reinterpret_cast<std::byte*>(&bits), 0, value);
  return bits;
}

void sketch_page(World& world, int sequence, int layer, int head, int32_t page, int32_t slot) {
  const KvGeometry& kv = world.sizes().kv;
  const uint16_t* fast = world.fast_of(sequence, layer);
  const int64_t pages = world.sizes().max_pages[static_cast<size_t>(sequence)];
  uint16_t* to = world.sketch_of(sequence, layer) + (head * pages + page) * 2 * kv.head_dim;
  for (int e = 0; e < kv.head_dim; ++e) {
    float hi = std::numeric_limits<float>::quiet_NaN(), lo = hi;
    for (int token = 0; token < kv.page; ++token) {
      const float key = load(world, fast, kv.fast_key(slot, token, head) + e);
      if (std::isnan(key)) continue;  // fmax() would turn a signalling one into the result
      hi = std::fmax(hi, key);
      lo = std::fmin(lo, key);
    }
    to[e] = stored(world, hi);
    to[kv.head_dim + e] = stored(world, lo);
  }
}

// The reference's bytes, with NaN in the model's form.
void sketch_key2_page(World& world, int sequence, int layer, int head, int32_t page, int32_t slot) {
  const KvGeometry& kv = world.sizes().kv;
  const DType dtype = dtype_of(kv.type);
  const int64_t pages = world.sizes().max_pages[static_cast<size_t>(sequence)];
  const int64_t values = kv.sketch_bytes(SketchKind::kKey2) / 2;
  uint16_t* to = world.sketch_of(sequence, layer) + (head * pages + page) * values;
  const KvPool pool{reinterpret_cast<std::byte*>(world.fast_of(sequence, layer)),
                    {kv.kv_heads, kv.head_dim, kv.page, dtype},
                    KvLayout::kNHD,
                    slot + 1};
  reference::build_key2_sketch(pool, slot, head,
                               {reinterpret_cast<std::byte*>(to), dtype, kv.head_dim, kv.page}, 0);
  for (int e = 0; e < 2 * kv.head_dim; ++e) to[e] = stored(world, load(world, to, e));
}

void write_page(World& world, int sequence, int layer, int head, int32_t page, int32_t slot) {
  const KvGeometry& kv = world.sizes().kv;
  if (world.sizes().layers[static_cast<size_t>(layer)].token_major) {
    // A page for a slot; all heads at once, which head 0 does.
    if (head == 0) {
      std::copy_n(world.fast_of(sequence, layer) + slot * kv.slot(), kv.slot(),
                  world.slow_of(sequence, layer) + page * kv.slot());
    }
    return;
  }
  const uint16_t* fast = world.fast_of(sequence, layer);
  uint16_t* to = world.slow_of(sequence, layer) + kv.slow_head_page(page, head);
  for (int token = 0; token < kv.page; ++token) {
    for (int e = 0; e < kv.head_dim; ++e) {
      const int64_t at = int64_t{token} * kv.head_dim + e;
      to[at] = fast[kv.fast_key(slot, token, head) + e];
      to[kv.head_page() / 2 + at] = fast[kv.fast_value(slot, token, head) + e];
    }
  }
}

// What turn_over() promises; `tokens` as in Batch, of all sequences.
void turn_over_in_model(World& world, const std::vector<int64_t>& tokens) {
  const PageMap& map = world.sizes().map;
  for (const int32_t sequence : world.sizes().order) {
    const int64_t length = tokens[static_cast<size_t>(sequence)] + 1;
    if (length % map.page != 0) continue;
    const auto page = static_cast<int32_t>(length / map.page - 1);
    for (size_t l = 0; l < world.sizes().layers.size(); ++l) {
      const LayerKind& kind = world.sizes().layers[l];
      const int layer = static_cast<int>(l);
      const int32_t slot = kind.budgeted ? map.common_slot(page) : page;
      for (int head = 0; head < world.sizes().kv.kv_heads; ++head) {
        if (kind.sketch && kind.sketch_kind == SketchKind::kKey2) {
          sketch_key2_page(world, sequence, layer, head, page, slot);
        } else if (kind.sketch) {
          sketch_page(world, sequence, layer, head, page, slot);
        }
        if (kind.slow) write_page(world, sequence, layer, head, page, slot);
      }
    }
  }
}

bool is_nan(const World& world, uint16_t bits) { return std::isnan(load(world, &bits, 0)); }

// The device's sketches, with the NaN and zeros that the model leaves open in the model's form.
Values comparable_sketch(const World& world) {
  Values result = world.device_sketch();
  for (size_t i = 0; i < result.size(); ++i) {
    const uint16_t expected = world.sketch[i];
    const bool zeros = ((result[i] | expected) & 0x7fff) == 0;
    if (zeros || (expected == kNaN && is_nan(world, result[i]))) result[i] = expected;
  }
  return result;
}

void expect_equal(const World& world) {
  EXPECT_EQ(cases::difference(world.device_fast(), world.fast), "") << "fast tier";
  EXPECT_EQ(cases::difference(world.device_slow(), world.slow), "") << "slow tier";
  EXPECT_EQ(cases::difference(comparable_sketch(world), world.sketch), "") << "sketches";
}

// sink 1, k 2, 3 resident, window 1: pages 0 to 2 stand in their own slots, later ones in 4 and 5.
PageMap make_map(int page) {
  PageMap map;
  map.page = page;
  map.budget = int64_t{4} * page;
  map.sink = 1;
  map.selected = 2;
  map.resident = 3;
  return map;
}

constexpr int32_t kMaxPages = 8;

// Random bits in all pools; in the keys' channel 3 of head 0 nothing but NaN.
void fill(World& world) {
  cases::fill_random(world.fast, 1);
  const KvGeometry& kv = world.sizes().kv;
  const auto stride = static_cast<size_t>(kv.fast_token_stride());
  for (size_t at = 3; at < world.fast.size(); at += stride) world.fast[at] = kPoison;
}

TEST(TurnOver, SketchesAndWritesThePageThatFilled) {
  const Stream stream;
  int at = 0;
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    for (const int page : {16, 32, 64}) {
      for (const KvType type : {KvType::kBF16, KvType::kF16}) {
        const KvGeometry kv{1 + at++ % 3, 4, head_dim, page, type};
        SCOPED_TRACE(cases::name(kv));
        const int64_t p = page;
        // T; the last two sequences take no part, though one of them would fill a page.
        const std::vector<int64_t> lengths = {p,     1,     p - 1, p + 1, 3 * p,
                                              4 * p, 7 * p, 8 * p, 2 * p, 5 * p + 1};
        std::vector<int64_t> tokens;
        for (const int64_t length : lengths) tokens.push_back(length - 1);
        const std::vector<int32_t> max_pages(lengths.size(), kMaxPages);
        World world({kv, make_map(page), kKinds, max_pages, {7, 1, 0, 2, 6, 3, 5, 4}});
        fill(world);
        world.send();
        world.set_tokens(tokens);
        turn_over({world.batch(), kv, world.sizes().map}, stream);
        stream.synchronize();
        turn_over_in_model(world, tokens);
        expect_equal(world);
      }
    }
  }
}

TEST(TurnOver, OneGraphServesEveryStep) {
  const KvGeometry kv{2, 4, 128, 16, KvType::kBF16};
  World world({kv, make_map(16), kKinds, {kMaxPages, kMaxPages}, {1, 0}});
  fill(world);
  world.send();
  const Stream stream;
  const Graph graph = Graph::capture(stream, [&] {
    turn_over({world.batch(), kv, world.sizes().map}, stream);
  });
  for (int64_t t = 0; t < kMaxPages * 16 - 5; ++t) {
    const std::vector<int64_t> tokens = {t, t + 5};
    world.set_tokens(tokens);
    graph.launch(stream);
    stream.synchronize();
    turn_over_in_model(world, tokens);
  }
  expect_equal(world);
}

TEST(TurnOver, RefusesWhatItIsNotBuiltFor) {
  const TurnOverParams params{.batch = {.n = 1, .layer_count = 1},
                              .kv = {2, 4, 128, 32, KvType::kBF16},
                              .map = make_map(32)};
  const auto refused = [&](auto change) {
    TurnOverParams changed = params;
    change(changed);
    EXPECT_THROW(turn_over(changed, nullptr), Error);
  };
  refused([](TurnOverParams& p) { p.map.page = 16; });
  refused([](TurnOverParams& p) { p.kv.page = p.map.page = 8; });
  refused([](TurnOverParams& p) { p.kv.head_dim = 72; });
  refused([](TurnOverParams& p) { p.batch.layer_count = 70000; });
  TurnOverParams empty = params;
  empty.batch.n = 0;
  EXPECT_NO_THROW(turn_over(empty, nullptr));
}

}  // namespace
}  // namespace freekv::cuda
