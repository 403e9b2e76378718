#include "backends/cuda/recall.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "backends/cuda/recall_cases.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

using cases::kPoison;
using cases::Sizes;
using cases::Values;
using cases::World;

constexpr int kLayer = 1;  // of two; the other must stay as it is

struct Mechanism {
  const char* name;
  void (*run)(const GatherParams&, cudaStream_t);
};
constexpr Mechanism kMechanisms[] = {{"gather", gather}, {"gather_loads", gather_loads}};

PageMap make_map(int page, int32_t selected) {
  PageMap map;
  map.page = page;
  map.sink = 2;
  map.selected = selected;
  map.resident = selected + 2;
  return map;
}

Sizes make_sizes(const KvGeometry& kv, int32_t selected) {
  return {kv,
          make_map(kv.page, selected),
          {{true, true, false}, {true, true, false}},
          {selected + 4, selected + 7, selected + 3},
          {2, 0}};
}

std::vector<int32_t> shuffled(int32_t n, std::mt19937& generator) {
  std::vector<int32_t> result(static_cast<size_t>(n));
  std::iota(result.begin(), result.end(), 0);
  for (size_t i = result.size(); i > 1; --i) std::swap(result[i - 1], result[generator() % i]);
  return result;
}

// Random moves of all rows. What stands behind a row's count would write to the sink's first slot.
struct Moves {
  Moves(const World& world, std::vector<int32_t> row_counts, uint32_t seed)
      : counts(std::move(row_counts)) {
    const PageMap& map = world.sizes().map;
    const auto k = static_cast<size_t>(map.selected);
    list.resize(counts.size() * k, {0, -map.sink});
    std::mt19937 generator(seed);
    for (size_t row = 0; row < counts.size(); ++row) {
      const auto b = row / static_cast<size_t>(world.sizes().kv.kv_heads);
      const auto sequence = static_cast<size_t>(world.sizes().order[b]);
      const auto pages = shuffled(world.sizes().max_pages[sequence], generator);
      const auto slots = shuffled(map.resident, generator);
      for (size_t i = 0; i < static_cast<size_t>(counts[row]); ++i) {
        list[row * k + i] = {pages[i], slots[i]};
      }
    }
  }

  std::vector<int32_t> counts;
  std::vector<Move> list;
};

void move_in_model(World& world, int sequence, int head, const Move& move) {
  const KvGeometry& kv = world.sizes().kv;
  const int32_t slot = world.sizes().map.sink + move.slot;
  const uint16_t* from = world.slow_of(sequence, kLayer) + kv.slow_head_page(move.page, head);
  uint16_t* to = world.fast_of(sequence, kLayer);
  for (int token = 0; token < kv.page; ++token) {
    const uint16_t* key = from + token * kv.head_dim;
    const uint16_t* value = key + kv.page * kv.head_dim;
    std::copy_n(key, kv.head_dim, to + kv.fast_key(slot, token, head));
    std::copy_n(value, kv.head_dim, to + kv.fast_value(slot, token, head));
  }
}

void move_in_model(World& world, const Moves& moves) {
  const int heads = world.sizes().kv.kv_heads;
  for (int row = 0; row < world.rows(); ++row) {
    const int sequence = world.sizes().order[static_cast<size_t>(row / heads)];
    for (int32_t i = 0; i < moves.counts[static_cast<size_t>(row)]; ++i) {
      move_in_model(world, sequence, row % heads,
                    moves.list[static_cast<size_t>(row * world.sizes().map.selected + i)]);
    }
  }
}

void fill(World& world, uint32_t seed) {
  std::fill(world.fast.begin(), world.fast.end(), kPoison);
  cases::fill_random(world.slow, seed);
}

GatherParams gather_params(const World& world, const DeviceBuffer& moves,
                           const DeviceBuffer& counts, int32_t ctas) {
  return {.batch = world.batch(),
          .kv = world.sizes().kv,
          .map = world.sizes().map,
          .layer = kLayer,
          .moves = moves.as<Move>(),
          .move_count = counts.as<int32_t>(),
          .ctas = ctas};
}

// From poisoned slots, by both mechanisms.
void expect_gathered(World& world, const std::vector<int32_t>& counts, int32_t ctas) {
  const Moves moves(world, counts, 7);
  const DeviceBuffer list = to_device(moves.list), number = to_device(moves.counts);
  const Stream stream;
  for (const Mechanism& mechanism : kMechanisms) {
    SCOPED_TRACE(std::string(mechanism.name) + " by " + std::to_string(ctas) + " CTAs");
    std::fill(world.fast.begin(), world.fast.end(), kPoison);
    world.send();
    mechanism.run(gather_params(world, list, number, ctas), stream);
    stream.synchronize();
    move_in_model(world, moves);
    EXPECT_EQ(cases::difference(world.device_fast(), world.fast), "");
  }
  EXPECT_EQ(cases::difference(world.device_slow(), world.slow), "");
}

// The same counts in turn, for `rows` rows.
std::vector<int32_t> repeated(const std::vector<int32_t>& counts, int rows) {
  std::vector<int32_t> result;
  for (int row = 0; row < rows; ++row) {
    result.push_back(counts[static_cast<size_t>(row) % counts.size()]);
  }
  return result;
}

std::vector<KvGeometry> geometries() {
  std::vector<KvGeometry> result;
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    for (const int page : {16, 32, 64}) {
      const int heads = 1 + static_cast<int>(result.size()) % 3;
      const KvType type = result.size() % 2 == 0 ? KvType::kBF16 : KvType::kF16;
      result.push_back({heads, 4, head_dim, page, type});
    }
  }
  return result;
}

TEST(Gather, BringsExactlyWhatWasAskedFor) {
  constexpr int32_t k = 5;
  for (const KvGeometry& kv : geometries()) {
    SCOPED_TRACE(cases::name(kv));
    World world(make_sizes(kv, k));
    fill(world, 1);
    std::vector<int32_t> last(static_cast<size_t>(world.rows()), 0);
    expect_gathered(world, last, 8);
    last.back() = 1;
    expect_gathered(world, last, 8);
    expect_gathered(world, repeated({0, 1, k, 0, k - 1}, world.rows()), 3);
    expect_gathered(world, repeated({k}, world.rows()), 1);
    expect_gathered(world, repeated({k, 2}, world.rows()), 40);  // more CTAs than moves
  }
}

// More moves per CTA than are looked up at once, with pages of one, two and four pieces.
TEST(Gather, GoesOnForLong) {
  constexpr int32_t k = 40;
  for (const KvGeometry& kv :
       {KvGeometry{2, 4, 64, 16, KvType::kBF16}, KvGeometry{2, 4, 80, 64, KvType::kBF16},
        KvGeometry{2, 4, 256, 64, KvType::kF16}}) {
    SCOPED_TRACE(cases::name(kv));
    World world(make_sizes(kv, k));
    fill(world, 2);
    expect_gathered(world, repeated({k}, world.rows()), 1);
    expect_gathered(world, repeated({k, 0, 31, 33}, world.rows()), 1);
    expect_gathered(world, repeated({33, 31}, world.rows()), 2);  // 64 each
    expect_gathered(world, repeated({33}, world.rows()), 4);      // 33 each
  }
}

// More rows than a CTA reads the counts of at once.
TEST(Gather, SharesOutAWideBatch) {
  Sizes sizes = make_sizes({2, 4, 64, 16, KvType::kF16}, 3);
  sizes.max_pages.assign(160, 4);
  std::mt19937 generator(3);
  sizes.order = shuffled(160, generator);
  for (const size_t n : {150u, 129u, 128u}) {
    SCOPED_TRACE(std::to_string(n) + " sequences");
    sizes.order.resize(n);
    World world(sizes);
    fill(world, 4);
    expect_gathered(world, repeated({0}, world.rows()), 8);
    expect_gathered(world, repeated({3, 1, 2}, world.rows()), 8);
    std::vector<int32_t> counts(static_cast<size_t>(world.rows()), 0);
    counts[counts.size() - 1] = 2;
    counts[200] = 3;
    expect_gathered(world, counts, 8);
    for (int32_t& count : counts) count = generator() % 8 == 0 ? 1 : 0;
    expect_gathered(world, counts, 5);
  }
}

TEST(Gather, OneGraphServesEveryList) {
  for (const Mechanism& mechanism : kMechanisms) {
    SCOPED_TRACE(mechanism.name);
    World world(make_sizes({3, 4, 128, 32, KvType::kBF16}, 5));
    fill(world, 5);
    world.send();
    const Moves none(world, repeated({0}, world.rows()), 1);
    const DeviceBuffer list = to_device(none.list), counts = to_device(none.counts);
    const Stream stream;
    const GatherParams params = gather_params(world, list, counts, 8);
    const Graph graph = Graph::capture(stream, [&] { mechanism.run(params, stream); });
    for (const std::vector<int32_t>& cycle :
         {std::vector<int32_t>{0}, {1, 0}, {5}, {2, 0, 5}, {0, 0, 0, 1}}) {
      const Moves moves(world, repeated(cycle, world.rows()), 10 + static_cast<uint32_t>(cycle[0]));
      copy_to_device(moves.list, list.data());
      copy_to_device(moves.counts, counts.data());
      graph.launch(stream);
      stream.synchronize();
      move_in_model(world, moves);
      EXPECT_EQ(cases::difference(world.device_fast(), world.fast), "");
    }
  }
}

TEST(Gather, LeavesTheLinkToCorrections) {
  int major = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "attribute");
  if (major < 9) GTEST_SKIP() << "no bulk copies";
  World world(make_sizes({3, 4, 128, 32, KvType::kBF16}, 5));
  fill(world, 6);
  std::fill(world.fast.begin(), world.fast.end(), kPoison);
  world.send();
  const Moves moves(world, repeated({5, 2}, world.rows()), 7);
  const DeviceBuffer list = to_device(moves.list), counts = to_device(moves.counts);
  PinnedBuffer corrections(sizeof(int32_t), 1);
  auto* under_way = reinterpret_cast<volatile int32_t*>(corrections.data());
  *under_way = 1;
  GatherParams params = gather_params(world, list, counts, 8);
  params.corrections = reinterpret_cast<const int32_t*>(corrections.device());
  const Stream stream;
  gather(params, stream);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  *under_way = 0;
  stream.synchronize();
  move_in_model(world, moves);
  EXPECT_EQ(cases::difference(world.device_fast(), world.fast), "");
}

TEST(Gather, RefusesWhatItIsNotBuiltFor) {
  GatherParams params{.batch = {.n = 1, .layer_count = 2},
                      .kv = {2, 4, 128, 32, KvType::kBF16},
                      .map = make_map(32, 5),
                      .layer = kLayer};
  const auto refused = [&](auto change) {
    GatherParams changed = params;
    change(changed);
    EXPECT_THROW(gather(changed, nullptr), Error);
    EXPECT_THROW(gather_loads(changed, nullptr), Error);
  };
  refused([](GatherParams& p) { p.kv.page = p.map.page = 8; });
  refused([](GatherParams& p) { p.map.page = 16; });
  refused([](GatherParams& p) { p.kv.head_dim = 72; });
  refused([](GatherParams& p) { p.kv.kv_heads = 0; });
  refused([](GatherParams& p) { p.ctas = 0; });
  refused([](GatherParams& p) { p.layer = 2; });
  refused([](GatherParams& p) { p.batch.n = 100000; });
  params.batch.n = 0;
  EXPECT_NO_THROW(gather(params, nullptr));
  EXPECT_NO_THROW(gather_loads(params, nullptr));
}

// The head pages of the moves, one after the other, as the copy engine brings them.
Values staged(World& world, int sequence, int head, const std::vector<Move>& moves) {
  const KvGeometry& kv = world.sizes().kv;
  Values result;
  for (const Move& move : moves) {
    const uint16_t* from = world.slow_of(sequence, kLayer) + kv.slow_head_page(move.page, head);
    result.insert(result.end(), from, from + kv.head_page());
  }
  return result;
}

TEST(ConvertPages, WritesExactlyTheSlotsOfTheMoves) {
  constexpr int32_t k = 5;
  const Stream stream;
  for (const KvGeometry& kv : geometries()) {
    World world(make_sizes(kv, k));
    fill(world, 6);
    world.send();
    for (const int32_t count : {0, 1, k}) {
      SCOPED_TRACE(cases::name(kv) + ", " + std::to_string(count) + " pages");
      const int head = kv.kv_heads - 1, sequence = 2;  // the first of the batch
      const Moves moves(world, repeated({count}, world.rows()), 20 + static_cast<uint32_t>(count));
      const auto row = moves.list.begin() + ptrdiff_t{head} * k;
      const std::vector<Move> list(row, row + count);
      const DeviceBuffer device_list = to_device(list);
      const DeviceBuffer staging = to_device(staged(world, sequence, head, list));
      convert_pages({.kv = kv,
                     .map = world.sizes().map,
                     .layer = world.device_layer(sequence, kLayer),
                     .head = head,
                     .staging = staging.data(),
                     .moves = device_list.as<Move>(),
                     .count = count},
                    stream);
      stream.synchronize();
      for (const Move& move : list) move_in_model(world, sequence, head, move);
      EXPECT_EQ(cases::difference(world.device_fast(), world.fast), "");
    }
  }
}

TEST(ConvertPages, RefusesWhatItIsNotBuiltFor) {
  const ConvertParams params{
      .kv = {2, 4, 128, 32, KvType::kBF16}, .map = make_map(32, 5), .layer = {}};
  const auto refused = [&](auto change) {
    ConvertParams changed = params;
    change(changed);
    EXPECT_THROW(convert_pages(changed, nullptr), Error);
  };
  refused([](ConvertParams& p) { p.head = 2; });
  refused([](ConvertParams& p) { p.head = -1; });
  refused([](ConvertParams& p) { p.count = -1; });
  refused([](ConvertParams& p) { p.map.page = 16; });
  refused([](ConvertParams& p) {
    p.kv.head_dim = 100;
    p.count = 1;
  });
}

}  // namespace
}  // namespace freekv::cuda
