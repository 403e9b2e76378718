// One tile of decode attention: up to kTileTokens keys and values of one KV head against a block of
// its query heads, with a running softmax (FlashAttention-2, section 3.1). Included once per SIMD
// target, so the guard toggles.
#if defined(FREEKV_BACKENDS_CPU_DECODE_TILE_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef FREEKV_BACKENDS_CPU_DECODE_TILE_INL_HPP_
#undef FREEKV_BACKENDS_CPU_DECODE_TILE_INL_HPP_
#else
#define FREEKV_BACKENDS_CPU_DECODE_TILE_INL_HPP_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <limits>

#include "backends/cpu/decode_tile.hpp"
#include "backends/cpu/exp2_inl.hpp"
#include "backends/cpu/load_inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

inline constexpr size_t kLanes = hn::MaxLanes(DF());

/// Most query heads that a block may have: a vector of sums holds all of them for a token.
inline constexpr size_t kMaxBlockHeads = std::min<size_t>(8, kLanes);

/// Brings lines [from, to) of a list into the cache, evenly over `turns` turns: a core waits for a
/// dozen lines or two at a time, and whatever asks for more holds up everything else. Into the
/// second level, since a tile of all KV heads is more than the first holds.
class Fetch {
 public:
  HWY_INLINE Fetch(const std::byte* const* lines, size_t offset, size_t from, size_t to,
                   size_t turns)
      : lines_(lines),
        offset_(offset),
        next_(from),
        due_(from << kFraction),
        per_turn_(((to - from) << kFraction) / turns) {}

  HWY_INLINE void turn() {
    due_ += per_turn_;
    for (; next_ < due_ >> kFraction; ++next_) {
      __builtin_prefetch(lines_[next_] + offset_, 0, 2);
    }
  }

 private:
  static constexpr int kFraction = 16;
  const std::byte* const* lines_;
  size_t offset_;
  size_t next_;
  size_t due_;
  size_t per_turn_;  // both in units of 2^-kFraction lines
};

/// A vector of a row from e on. kHalf: only 8 elements are left, the others are zeros.
template <DType kType, bool kHalf>
HWY_INLINE VF load_values(const std::byte* row, size_t e) {
  const DF d;
  const Block<kType> elements(row, 0);
#if HWY_TARGET <= HWY_AVX3
  if constexpr (kHalf) return hn::ZeroExtendVector(d, elements.load(hn::Half<DF>(), e));
#endif
  return elements.load(d, e);
}

/// The sums of kLanes vectors as one vector: lane i is the sum of v[i]'s lanes. Transposing while
/// adding takes a quarter of the shuffles of kLanes separate sums.
HWY_INLINE VF sums_of_vectors(const VF (&v)[kLanes]) {
#if HWY_TARGET == HWY_SCALAR
  return v[0];
#else
  const DF d;
  const hn::RepartitionToWide<DF> wide;
  VF quads[kLanes / 4];  // in every 128-bit block the four sums of that block
  HWY_UNROLL(4)
  for (size_t i = 0; i < kLanes / 4; ++i) {
    const VF ab = hn::Add(hn::InterleaveLower(d, v[4 * i], v[4 * i + 1]),
                          hn::InterleaveUpper(d, v[4 * i], v[4 * i + 1]));
    const VF cd = hn::Add(hn::InterleaveLower(d, v[4 * i + 2], v[4 * i + 3]),
                          hn::InterleaveUpper(d, v[4 * i + 2], v[4 * i + 3]));
    const auto ab2 = hn::BitCast(wide, ab);
    const auto cd2 = hn::BitCast(wide, cd);
    quads[i] = hn::Add(hn::BitCast(d, hn::InterleaveLower(wide, ab2, cd2)),
                       hn::BitCast(d, hn::InterleaveUpper(wide, ab2, cd2)));
  }
#if HWY_TARGET <= HWY_AVX3
  const auto pair = [&](VF x, VF y) HWY_ATTR {
    return hn::Add(hn::OddEvenBlocks(y, x), hn::SwapAdjacentBlocks(hn::OddEvenBlocks(x, y)));
  };
  const VF low = pair(quads[0], quads[1]);
  const VF high = pair(quads[2], quads[3]);
  return hn::Add(hn::ConcatLowerLower(d, high, low), hn::ConcatUpperUpper(d, high, low));
#elif HWY_TARGET == HWY_AVX2
  return hn::Add(hn::ConcatLowerLower(d, quads[1], quads[0]),
                 hn::ConcatUpperUpper(d, quads[1], quads[0]));
#else
  return quads[0];
#endif
#endif
}

// Arrays of vectors must end up in registers, which takes loops that are unrolled completely.

/// One vector of the dimension, from e on, of the products that score_tokens() sums.
template <DType kType, size_t kHeads, bool kHalf>
HWY_INLINE void add_products(const std::byte* const* keys, size_t offset, const float* q, size_t e,
                             size_t padded_dim, VF (&sums)[kLanes]) {
  constexpr size_t kStride = std::bit_ceil(kHeads);
  const DF d;
  VF qs[kHeads];
  HWY_UNROLL(8)
  for (size_t g = 0; g < kHeads; ++g) qs[g] = hn::Load(d, q + g * padded_dim + e);
  HWY_UNROLL(16)
  for (size_t t = 0; t < kLanes / kStride; ++t) {
    const VF k = load_values<kType, kHalf>(keys[t] + offset, e);
    HWY_UNROLL(8)
    for (size_t g = 0; g < kHeads; ++g) {
      sums[t * kStride + g] = hn::MulAdd(qs[g], k, sums[t * kStride + g]);
    }
  }
}

/// Scores of kLanes / stride tokens from `first` on for kHeads heads, as [token][stride].
template <DType kType, size_t kHeads>
HWY_INLINE VF score_tokens(const Tile& tile, size_t first, const float* q) {
  const std::byte* const* keys = tile.keys + first;
  VF sums[kLanes];
  HWY_UNROLL(16)
  for (size_t i = 0; i < kLanes; ++i) sums[i] = hn::Zero(DF());
  size_t e = 0;
  for (; e + kLanes <= tile.dim; e += kLanes) {
    add_products<kType, kHeads, false>(keys, tile.key_offset, q, e, tile.padded_dim, sums);
  }
  // head_dim is a multiple of 8, so at most half a vector is left; q is padded with zeros.
  if constexpr (kLanes > 8) {
    if (e < tile.dim) {
      add_products<kType, kHeads, true>(keys, tile.key_offset, q, e, tile.padded_dim, sums);
    }
  }
  return sums_of_vectors(sums);
}

/// Turns scores into weights 2^(score - max) and keeps the running maximum and mass. Returns by
/// how much what was summed before shrinks, per head, in `shrink`.
template <size_t kStride>
HWY_INLINE void softmax_tile(float* scores, size_t tokens, HeadBlockState& state, float* shrink) {
  const DF d;
  const float lowest = -std::numeric_limits<float>::infinity();
  const size_t used = tokens * kStride;
  const size_t padded = (used + kLanes - 1) / kLanes * kLanes;
  std::fill(scores + used, scores + padded, lowest);
  VF highest = hn::Load(d, state.max);
  for (size_t i = 0; i < padded; i += kLanes) highest = hn::Max(highest, hn::Load(d, scores + i));
  // Lanes of the same head stand kStride apart.
  HWY_ALIGN float lanes[kLanes];
  hn::Store(highest, d, lanes);
  for (size_t i = kStride; i < kLanes; ++i) {
    lanes[i % kStride] = std::max(lanes[i % kStride], lanes[i]);
  }
  for (size_t i = kStride; i < kLanes; ++i) lanes[i] = lanes[i % kStride];
  highest = hn::Load(d, lanes);
  const VF factor = exp2(d, hn::Sub(hn::Load(d, state.max), highest));
  hn::Store(factor, d, shrink);
  hn::Store(highest, d, state.max);
  VF mass = hn::Mul(hn::Load(d, state.mass), factor);
  for (size_t i = 0; i < padded; i += kLanes) {
    const VF weight = exp2(d, hn::Sub(hn::Load(d, scores + i), highest));
    mass = hn::Add(mass, weight);
    hn::Store(weight, d, scores + i);
  }
  hn::Store(mass, d, state.mass);
}

/// sums[g, e..] = sums * shrink[g] + weights . values, for kVectors vectors of the dimension.
/// Brings its share of the values of the tile to come into the cache meanwhile.
template <DType kType, size_t kHeads, size_t kVectors, bool kHalf>
HWY_INLINE void add_values(const Tile& tile, size_t e, const float* weights, const float* shrink,
                           float* sums) {
  constexpr size_t kStride = std::bit_ceil(kHeads);
  const DF d;
  VF acc[kHeads][kVectors];
  HWY_UNROLL(8)
  for (size_t g = 0; g < kHeads; ++g) {
    HWY_UNROLL(8)
    for (size_t j = 0; j < kVectors; ++j) {
      acc[g][j] =
          hn::Mul(hn::Set(d, shrink[g]), hn::Load(d, sums + g * tile.padded_dim + e + j * kLanes));
    }
  }
  const size_t offset = tile.key_offset + tile.values_offset;
  const size_t columns = std::min(kVectors * kLanes, tile.dim - e);
  Fetch fetch(tile.fetch, tile.values_offset, tile.fetch_count * e / tile.dim,
              tile.fetch_count * (e + columns) / tile.dim, std::max<size_t>(1, tile.tokens / 4));
  const auto add_token = [&](size_t t) HWY_ATTR {
    const std::byte* row = tile.keys[t] + offset;
    HWY_UNROLL(8)
    for (size_t j = 0; j < kVectors; ++j) {
      const VF v = load_values<kType, kHalf>(row, e + j * kLanes);
      HWY_UNROLL(8)
      for (size_t g = 0; g < kHeads; ++g) {
        acc[g][j] = hn::MulAdd(hn::Set(d, weights[t * kStride + g]), v, acc[g][j]);
      }
    }
  };
  // Four tokens to a turn: the turn costs a quarter of a token's own work.
  size_t t = 0;
  for (; t + 4 <= tile.tokens; t += 4) {
    fetch.turn();
    add_token(t);
    add_token(t + 1);
    add_token(t + 2);
    add_token(t + 3);
  }
  for (; t < tile.tokens; ++t) add_token(t);
  HWY_UNROLL(8)
  for (size_t g = 0; g < kHeads; ++g) {
    HWY_UNROLL(8)
    for (size_t j = 0; j < kVectors; ++j) {
      hn::Store(acc[g][j], d, sums + g * tile.padded_dim + e + j * kLanes);
    }
  }
}

/// The whole tile for one block of heads.
template <DType kType, size_t kHeads>
void attend_tile(const Tile& tile, const float* q, float* scores, HeadBlockState& state) {
  constexpr size_t kStride = std::bit_ceil(kHeads);
  constexpr size_t kTokens = kLanes / kStride;
  const DF d;
  Fetch fetch(tile.fetch, 0, 0, tile.fetch_count, (tile.tokens + kTokens - 1) / kTokens);
  for (size_t t = 0; t < tile.tokens; t += kTokens) {
    fetch.turn();
    hn::Store(score_tokens<kType, kHeads>(tile, t, q), d, scores + t * kStride);
  }
  HWY_ALIGN float shrink[kLanes];
  softmax_tile<kStride>(scores, tile.tokens, state, shrink);

  // As many sums as registers hold beside the values (16 of 32 registers, 8 of 16).
  constexpr size_t kSums = kLanes == 16 ? 16 : 8;
  constexpr size_t kVectors =
      std::min<size_t>(8, std::bit_floor(std::max<size_t>(1, kSums / kHeads)));
  size_t e = 0;
  const auto add = [&]<size_t kCount, bool kHalf>() HWY_ATTR {
    add_values<kType, kHeads, kCount, kHalf>(tile, e, scores, shrink, state.sums);
    e += kCount * kLanes;
  };
  while (e + kVectors * kLanes <= tile.dim) add.template operator()<kVectors, false>();
  if constexpr (kVectors > 4) {
    if (e + 4 * kLanes <= tile.dim) add.template operator()<4, false>();
  }
  if constexpr (kVectors > 2) {
    if (e + 2 * kLanes <= tile.dim) add.template operator()<2, false>();
  }
  if constexpr (kVectors > 1) {
    if (e + kLanes <= tile.dim) add.template operator()<1, false>();
  }
  if constexpr (kLanes > 8) {
    if (e < tile.dim) add.template operator()<1, true>();
  }
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
