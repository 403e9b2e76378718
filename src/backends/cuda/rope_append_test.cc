// Rotation, append and correction test against the scalar reference, over steps of a batch.
#include "backends/cuda/rope_append.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "backends/cuda/rope_append_cases.hpp"
#include "backends/op_test.hpp"
#include "backends/reference/elementwise.hpp"
#include "backends/reference/selection.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

using namespace rope_cases;

// --- what is expected ----------------------------------------------------------------------------

// A sequence's queries move by another amount in each head and step.
std::vector<float> input_of(const Case& c, int32_t sequence, int64_t tokens) {
  const std::vector<float> base = cases::random_floats(c.q_size(), 7 + sequence);
  const auto seed = static_cast<uint32_t>(1000 * (sequence + 1) + tokens);
  std::vector<float> values = cases::random_floats(c.qkv_size(), seed);
  for (size_t i = 0; i < base.size(); ++i) {
    values[i] = base[i] + values[i] * 0.15f * static_cast<float>(i / c.head_dim % 7);
  }
  return values;
}

std::vector<float> rotated(const Case& c, const World& world, const float* from, int heads,
                           int64_t position) {
  std::vector<float> cos, sin;
  for (const float frequency : world.frequencies) {
    const float angle = static_cast<float>(position) * frequency;
    cos.push_back(world.scale * std::cos(angle));
    sin.push_back(world.scale * std::sin(angle));
  }
  const auto half = static_cast<int64_t>(cos.size());
  std::vector<float> values(from, from + int64_t{heads} * c.head_dim);
  const int64_t rows[] = {0};
  ExecutionContext ctx(1);
  if (!world.head_norm.empty()) {
    const View<float, 2> each(values.data(), heads, c.head_dim);
    reference::rms_norm(ctx, each, View<const float, 1>(world.head_norm.data(), c.head_dim),
                        kNormEps, each);
  }
  reference::rope(
      ctx, View<float, 3>(values.data(), 1, heads, c.head_dim), rows,
      {View<const float, 2>(cos.data(), 1, half), View<const float, 2>(sin.data(), 1, half)},
      c.rope == Rope::kInterleaved ? RopeStyle::kInterleaved : RopeStyle::kHalves);
  return values;
}

// What the host knows of a sequence.
struct Mirror {
  std::vector<float> previous;
  bool started = false;
  std::vector<uint16_t> fast;
  std::vector<RowCounters> counters;
};

std::vector<float> similarity(const Case& c, const std::vector<float>& q, const Mirror& mirror) {
  std::vector<float> result(static_cast<size_t>(c.kv_heads));
  ExecutionContext ctx(1);
  reference::mean_cosine(
      ctx, View<const float, 3>(q.data(), c.kv_heads, c.group, c.head_dim),
      View<const float, 3>(mirror.previous.data(), c.kv_heads, c.group, c.head_dim),
      View<float, 1>(result.data(), c.kv_heads));
  return result;
}

bool retrieves_at(const Case& c, const Spec& spec, int64_t before) {
  return spec.retrieves && c.map().over_budget(before + 1);
}

// The slots hold v to the bit, k but for the rounding of the rotation, and nothing else new.
void expect_appended(const Case& c, const Spec& spec, int64_t position, const std::vector<float>& k,
                     const float* v, Mirror& mirror, const std::vector<uint16_t>& fast) {
  const auto page = static_cast<int32_t>(position / c.page);
  const int32_t slot = spec.budgeted ? c.map().common_slot(page) : page;
  const auto token = static_cast<int>(position % c.page);
  const double step = c.type == KvType::kBF16 ? 0x1p-7 : 0x1p-10;
  for (int m = 0; m < c.kv_heads; ++m) {
    for (int e = 0; e < c.head_dim; ++e) {
      const int i = m * c.head_dim + e;
      const auto key = static_cast<size_t>(c.geometry().fast_key(slot, token, m) + e);
      const auto value = static_cast<size_t>(c.geometry().fast_value(slot, token, m) + e);
      const auto* stored = reinterpret_cast<const std::byte*>(&fast[key]);
      EXPECT_NEAR(load_element(c.dtype(), stored, 0), k[i], std::abs(k[i]) * step + 2e-6);
      mirror.fast[key] = fast[key];
      store_element(c.dtype(), reinterpret_cast<std::byte*>(&mirror.fast[value]), 0, v[i]);
    }
  }
  EXPECT_TRUE(fast == mirror.fast);
}

// A tau between the similarities at hand, so that both outcomes occur.
float tau_between(std::vector<float> similarities) {
  if (similarities.size() < 2) return 0.8f;
  std::ranges::sort(similarities);
  const size_t middle = similarities.size() / 2;
  return (similarities[middle - 1] + similarities[middle]) / 2;
}

void expect_state(const World& world, int32_t s, const Mirror& mirror) {
  EXPECT_TRUE(same_bits(to_host<float>(world.previous[s]), mirror.previous));
  const std::vector<int32_t> started = to_host<int32_t>(world.started[s]);
  EXPECT_EQ(started, std::vector<int32_t>(started.size(), mirror.started ? 1 : 0));
  const std::vector<RowCounters> counters = to_host<RowCounters>(world.counters);
  for (size_t m = 0; m < mirror.counters.size(); ++m) {
    const RowCounters& actual = counters[s * mirror.counters.size() + m];
    EXPECT_EQ(actual.tested, mirror.counters[m].tested);
    EXPECT_EQ(actual.drifted, mirror.counters[m].drifted);
  }
}

// --- tests ---------------------------------------------------------------------------------------

// Steps all sequences but the first, last one first, and checks each against its mirror.
void run_case(const Case& c, bool norms, int* speculative, int* corrected) {
  const std::vector<Spec> specs = specs_of(c.page);
  World world(c, specs);
  if (norms) {
    world.norm_heads(cases::random_floats(c.head_dim, 99));
    world.scale = 1.1f;
  }
  std::vector<Mirror> mirrors(specs.size());
  std::vector<int32_t> batch;
  for (size_t s = 0; s < specs.size(); ++s) {
    mirrors[s].previous = cases::poisoned(c.q_size());
    mirrors[s].fast = to_host<uint16_t>(world.fast[s]);
    mirrors[s].counters.resize(static_cast<size_t>(c.kv_heads));
    if (s > 0) batch.insert(batch.begin(), static_cast<int32_t>(s));
  }
  for (int step = 0; step < 4; ++step) {
    SCOPED_TRACE(step);
    const std::vector<int64_t> positions = world.tokens;
    std::vector<float> qkv, similarities;
    std::vector<std::vector<float>> inputs, queries;
    for (const int32_t s : batch) {
      inputs.push_back(input_of(c, s, positions[s]));
      qkv.insert(qkv.end(), inputs.back().begin(), inputs.back().end());
      queries.push_back(rotated(c, world, inputs.back().data(), c.heads(), positions[s]));
      if (!mirrors[s].started) continue;
      for (const float x : similarity(c, queries.back(), mirrors[s])) similarities.push_back(x);
    }
    const float tau = tau_between(similarities);
    world.step(batch, qkv, tau);
    for (size_t b = 0; b < batch.size(); ++b) {
      const int32_t s = batch[b];
      SCOPED_TRACE("sequence " + std::to_string(s));
      Mirror& mirror = mirrors[s];
      const std::span<const float> q = std::span(world.q).subspan(b * c.q_size(), c.q_size());
      EXPECT_LE(cases::relative_error(q, queries[b]), 4e-6);
      const bool retrieving = retrieves_at(c, specs[s], positions[s]);
      const std::vector<float> cosines = similarity(c, queries[b], mirror);
      for (int m = 0; m < c.kv_heads; ++m) {
        RowMode mode = retrieving ? RowMode::kCorrected : RowMode::kDense;
        if (mirror.started) {
          EXPECT_GT(std::abs(cosines[m] - tau), 2e-6) << "the test's inputs decide nothing";
          if (cosines[m] >= tau) mode = RowMode::kSpeculative;
          ++mirror.counters[m].tested;
          mirror.counters[m].drifted += mode == RowMode::kCorrected;
          ++*(mode == RowMode::kCorrected ? corrected : speculative);
        }
        EXPECT_EQ(world.mode[b * c.kv_heads + m], static_cast<int32_t>(mode)) << m;
      }
      const float* k = inputs[b].data() + c.q_size();
      expect_appended(c, specs[s], positions[s], rotated(c, world, k, c.kv_heads, positions[s]),
                      k + c.kv_size(), mirror, to_host<uint16_t>(world.fast[s]));
      if (retrieving) {
        mirror.started = true;
        mirror.previous.assign(q.begin(), q.end());
      }
      expect_state(world, s, mirror);
    }
  }
  EXPECT_TRUE(to_host<uint16_t>(world.fast[0]) == mirrors[0].fast);  // it was in no batch
  expect_state(world, 0, mirrors[0]);
}

TEST(RopeAppend, AgreesWithReferenceOverSteps) {
  int speculative = 0, corrected = 0;
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name());
    run_case(c, false, &speculative, &corrected);
    run_case(c, true, &speculative, &corrected);
  }
  EXPECT_GT(speculative, 100);
  EXPECT_GT(corrected, 100);
}

TEST(RopeAppend, ASequenceDoesNotDependOnTheBatch) {
  const Case& c = kCases[5];
  const std::vector<Spec> specs = specs_of(c.page);
  for (const float forced_drift : {-1.0f, 0.5f}) {
    World together(c, specs);
    World alone(c, specs);
    for (int step = 0; step < 3; ++step) {
      std::vector<int32_t> batch;
      std::vector<float> qkv, q;
      std::vector<int32_t> mode;
      for (int32_t s = 0; s < static_cast<int32_t>(specs.size()); ++s) {
        batch.push_back(s);
        const std::vector<float> input = input_of(c, s, together.tokens[s]);
        qkv.insert(qkv.end(), input.begin(), input.end());
        alone.step({s}, input, 0.8f, forced_drift);
        q.insert(q.end(), alone.q.begin(), alone.q.end());
        mode.insert(mode.end(), alone.mode.begin(), alone.mode.end());
      }
      together.step(batch, qkv, 0.8f, forced_drift);
      EXPECT_TRUE(same_bits(together.q, q));
      EXPECT_EQ(together.mode, mode);
    }
    for (size_t s = 0; s < specs.size(); ++s) {
      EXPECT_TRUE(to_host<uint16_t>(together.fast[s]) == to_host<uint16_t>(alone.fast[s]));
      EXPECT_TRUE(
          same_bits(to_host<float>(together.previous[s]), to_host<float>(alone.previous[s])));
    }
  }
}

// Modes of a second step with the query `second` after `first`, both in all heads and not rotated.
std::vector<int32_t> second_modes(float first, float second, float tau, float forced_drift = -1) {
  const Case c{2, 3, 64, 16, KvType::kBF16, Rope::kHalves};
  World world(c, {{500}}, false);
  const auto input = [&](float q) {
    return std::vector<float>(static_cast<size_t>(c.qkv_size()), q);
  };
  world.step({0}, input(first), tau, forced_drift);
  EXPECT_EQ(world.mode, std::vector<int32_t>(2, static_cast<int32_t>(RowMode::kCorrected)));
  world.step({0}, input(second), tau, forced_drift);
  return world.mode;
}

TEST(RopeAppend, TauAtItsEnds) {
  const std::vector<int32_t> corrected(2, static_cast<int32_t>(RowMode::kCorrected));
  const std::vector<int32_t> speculative(2, static_cast<int32_t>(RowMode::kSpeculative));
  EXPECT_EQ(second_modes(0.3f, 0.7f, 0.999f), speculative);
  EXPECT_EQ(second_modes(0.3f, 0.7f, std::nextafter(1.0f, 2.0f)), corrected);
  EXPECT_EQ(second_modes(0.3f, -0.3f, -0.999f), corrected);
  EXPECT_EQ(second_modes(0.3f, -0.3f, -1.0f), speculative);
  EXPECT_EQ(second_modes(0.3f, 0, 0), speculative);  // a zero vector's cosine is 0
  EXPECT_EQ(second_modes(0, 0.3f, 0.001f), corrected);
  EXPECT_EQ(second_modes(0.3f, NAN, -2), corrected);
  EXPECT_EQ(second_modes(NAN, 0.3f, -2), corrected);
}

// Of 64 queries that did not turn, some have a cosine that is rounded to above 1.
TEST(RopeAppend, NoCosineIsAboveOne) {
  const Case c{64, 1, 64, 16, KvType::kBF16, Rope::kHalves};
  World world(c, {{500}}, false);
  std::vector<float> qkv = cases::random_floats(c.qkv_size(), 1);
  world.step({0}, qkv, 0.8f);
  for (float& x : qkv) x /= 3;
  world.step({0}, qkv, std::nextafter(1.0f, 2.0f));
  EXPECT_EQ(world.mode, std::vector<int32_t>(64, static_cast<int32_t>(RowMode::kCorrected)));
}

TEST(RopeAppend, ForcedDriftIsAShareOfTheHeads) {
  const std::vector<int32_t> corrected(2, static_cast<int32_t>(RowMode::kCorrected));
  const std::vector<int32_t> speculative(2, static_cast<int32_t>(RowMode::kSpeculative));
  EXPECT_EQ(second_modes(1, -1, 0.8f, 0), speculative);
  EXPECT_EQ(second_modes(1, 1, 0.8f, 1), corrected);

  const Case c{16, 1, 64, 16, KvType::kF16, Rope::kHalves};
  World world(c, {{500}, {500}, {777}});
  const std::vector<float> qkv(static_cast<size_t>(3 * c.qkv_size()), 1.0f);
  for (int step = 0; step < 21; ++step) world.step({0, 1, 2}, qkv, 0.8f, 0.3f);
  uint64_t drifted = 0, tested = 0;
  std::vector<std::vector<uint64_t>> by_head(3);
  const std::vector<RowCounters> counters = to_host<RowCounters>(world.counters);
  for (size_t i = 0; i < counters.size(); ++i) {
    tested += counters[i].tested;
    drifted += counters[i].drifted;
    by_head[i / 16].push_back(counters[i].drifted);
  }
  EXPECT_NE(by_head[0], by_head[1]);  // of the same length
  EXPECT_GT(std::ranges::max(by_head[0]), std::ranges::min(by_head[0]));
  EXPECT_EQ(tested, 3u * 16 * 20);
  EXPECT_NEAR(static_cast<double>(drifted) / static_cast<double>(tested), 0.3, 0.06);
}

TEST(RopeAppend, RefusesShapesItDoesNotHave) {
  const auto call = [](const KvGeometry& kv, int page, int32_t layer, int32_t n) {
    RopeAppendParams params;
    params.batch.n = n;
    params.batch.layer_count = kLayers;
    params.kv = kv;
    params.map.page = page;
    params.layer = layer;
    rope_append(params, Stream());
  };
  EXPECT_NO_THROW(call({8, 4, 128, 32}, 32, 0, 0));
  EXPECT_THROW(call({8, 4, 100, 32}, 32, 0, 1), Error);
  EXPECT_THROW(call({8, 4, 128, 32}, 16, 0, 0), Error);
  EXPECT_THROW(call({8, 17, 128, 32}, 32, 0, 0), Error);
  EXPECT_THROW(call({8, 4, 128, 32}, 32, kLayers, 0), Error);
  EXPECT_THROW(call({8, 4, 128, 32}, 32, 0, -1), Error);
}

}  // namespace
}  // namespace freekv::cuda
