// Mean values of pages, and what they add to attention.
#include <array>

#include "backends/cpu/selection.hpp"
#include "backends/selection_checks.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/mean_values.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include "backends/cpu/load_inl.hpp"
#include "backends/cpu/store_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

// Not the widest vectors: head_dim is a multiple of 8, so that these leave no rest.
using DMean = hn::CappedTag<float, 8>;

template <DType kType>
void build_means(const KvPool& pool, int32_t slot, int head, std::byte* mean) {
  const DMean d;
  const int tokens = pool.shape.page;
  const std::byte* values = pool.values(slot, head);
  const auto count = hn::Set(d, static_cast<float>(tokens));
  for (size_t e = 0; e < static_cast<size_t>(pool.shape.head_dim); e += hn::Lanes(d)) {
    auto sum = hn::Zero(d);
    for (int t = 0; t < tokens; ++t) {
      const Block<kType> row(values + static_cast<size_t>(t) * pool.token_stride(), 0);
      sum = hn::Add(sum, row.load(d, e));
    }
    store_values<kType>(d, hn::Div(sum, count), mean, e);
  }
}

// A few pages that some head gives weight, so that their means stay in the nearest cache while
// they are read channel by channel.
constexpr size_t kTilePages = 32;
constexpr size_t kTileHeads = 4;

struct Tile {
  size_t pages = 0;
  std::array<const std::byte*, kTilePages> means;
  float weights[kTilePages][kTileHeads];
};

template <DType kType, size_t kHeads>
void add_tile(const Tile& tile, size_t dim, float* const* out) {
  const DMean d;
  for (size_t e = 0; e < dim; e += hn::Lanes(d)) {
    hn::Vec<DMean> sums[kHeads];
    for (size_t h = 0; h < kHeads; ++h) sums[h] = hn::LoadU(d, out[h] + e);
    for (size_t i = 0; i < tile.pages; ++i) {
      const auto mean = Block<kType>(tile.means[i], 0).load(d, e);
      for (size_t h = 0; h < kHeads; ++h) {
        sums[h] = hn::MulAdd(hn::Set(d, tile.weights[i][h]), mean, sums[h]);
      }
    }
    for (size_t h = 0; h < kHeads; ++h) hn::StoreU(sums[h], d, out[h] + e);
  }
}

// For heads g to g + kHeads.
template <DType kType, size_t kHeads>
void add_heads(View<const float, 2> weights, const MeanValuesView& means, int64_t first, int64_t g,
               View<float, 2> out) {
  const auto dim = static_cast<size_t>(means.head_dim);
  std::array<const float*, kHeads> from;
  std::array<float*, kHeads> to;
  for (size_t h = 0; h < kHeads; ++h) {
    from[h] = weights[g + static_cast<int64_t>(h)].data();
    to[h] = out[g + static_cast<int64_t>(h)].data();
  }
  Tile tile;
  for (int64_t i = 0; i < weights.shape(1); ++i) {
    bool any = false;
    for (size_t h = 0; h < kHeads; ++h) {
      tile.weights[tile.pages][h] = from[h][i];
      any |= from[h][i] != 0;
    }
    if (!any) continue;
    tile.means[tile.pages++] = means.mean(first + i);
    if (tile.pages < kTilePages) continue;
    add_tile<kType, kHeads>(tile, dim, to.data());
    tile.pages = 0;
  }
  if (tile.pages > 0) add_tile<kType, kHeads>(tile, dim, to.data());
}

void build_means_any(const KvPool& pool, int32_t slot, int head, std::byte* mean) {
  dispatch_kv_dtype(pool.shape.dtype,
                    [&](auto type) { build_means<decltype(type)::value>(pool, slot, head, mean); });
}

void add_means_any(View<const float, 2> weights, const MeanValuesView& means, int64_t first,
                   View<float, 2> out) {
  dispatch_kv_dtype(means.dtype, [&](auto type) {
    constexpr DType kType = decltype(type)::value;
    int64_t g = 0;
    for (; g + static_cast<int64_t>(kTileHeads) <= weights.shape(0);
         g += static_cast<int64_t>(kTileHeads)) {
      add_heads<kType, kTileHeads>(weights, means, first, g, out);
    }
    for (; g < weights.shape(0); ++g) add_heads<kType, 1>(weights, means, first, g, out);
  });
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::cpu {

HWY_EXPORT(build_means_any);
HWY_EXPORT(add_means_any);

void build_mean_values(const KvPool& pool, int32_t slot, int head, const MeanValuesView& means,
                       int64_t page) {
  check_sketch(pool, slot, head, means, page);
  check_argument(means.dtype == pool.shape.dtype, "the means are {}, the pool {}",
                 dtype_name(means.dtype), dtype_name(pool.shape.dtype));
  check_argument(means.head_dim % 8 == 0, "head_dim is {}, must be a multiple of 8",
                 means.head_dim);
  HWY_DYNAMIC_DISPATCH(build_means_any)(pool, slot, head, means.mean(page));
}

void add_mean_values(View<const float, 2> weights, const MeanValuesView& means, int64_t first,
                     View<float, 2> out) {
  check_mean_values(weights, means, first, out);
  check_argument(means.head_dim % 8 == 0, "head_dim is {}, must be a multiple of 8",
                 means.head_dim);
  HWY_DYNAMIC_DISPATCH(add_means_any)(weights, means, first, out);
}

}  // namespace freekv::cpu
#endif  // HWY_ONCE
