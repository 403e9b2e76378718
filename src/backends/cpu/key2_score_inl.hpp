// Scoring sketches of 2-bit keys: products of whole numbers, a page at a time, then ln sum exp over
// its tokens. Included once per SIMD target, so the guard toggles.
#if defined(FREEKV_BACKENDS_CPU_KEY2_SCORE_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef FREEKV_BACKENDS_CPU_KEY2_SCORE_INL_HPP_
#undef FREEKV_BACKENDS_CPU_KEY2_SCORE_INL_HPP_
#else
#define FREEKV_BACKENDS_CPU_KEY2_SCORE_INL_HPP_
#endif

#include <hwy/cache_control.h>
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <type_traits>

#include "backends/backend.hpp"
#include "backends/cpu/exp2_inl.hpp"
#include "backends/cpu/load_inl.hpp"
#include "backends/cpu/selection.hpp"

HWY_BEFORE_NAMESPACE();
namespace freekv::cpu::HWY_NAMESPACE {

// A float for each token of a vector; as bytes, 4 channels of each.
using DToken = hn::CappedTag<float, 16>;
using VToken = hn::Vec<DToken>;
inline constexpr size_t kTokenLanes = hn::MaxLanes(DToken());
// head_dim is a multiple of 8, so that these leave no rest.
using DChannel = hn::CappedTag<float, 8>;
using VChannel = hn::Vec<DChannel>;

inline constexpr size_t kGroupChannels = Key2SketchView::kGroup;
inline constexpr size_t kPaddedDim = kMaxHeadDim;
/// Pages whose logarithms are taken together.
inline constexpr size_t kLogPages = 16;

/// What kHeads queries make of one page: q.key = base + unit * (weights . levels).
template <size_t kHeads>
struct PageWeights {
  alignas(64) int8_t weights[kHeads][kPaddedDim];
  float base[kHeads];
  float unit[kHeads];
};

template <DType kType, size_t kHeads>
HWY_INLINE void weigh_page(const float* const (&q)[kHeads], const Key2SketchView& sketch,
                           int64_t page, PageWeights<kHeads>& out) {
  const DChannel d;
  const hn::Rebind<int8_t, DChannel> di8;
  const auto dim = static_cast<size_t>(sketch.head_dim);
  const Block<kType> lows(sketch.lo(page), 0);
  const Block<kType> steps(sketch.step(page), 0);
  VChannel base[kHeads], sum[kHeads], largest[kHeads];
  HWY_UNROLL(8)
  for (size_t h = 0; h < kHeads; ++h) base[h] = sum[h] = largest[h] = hn::Zero(d);
  HWY_ALIGN float products[kHeads][kPaddedDim];
  for (size_t e = 0; e < dim; e += hn::Lanes(d)) {
    const VChannel lo = lows.load(d, e);
    const VChannel step = steps.load(d, e);
    HWY_UNROLL(8)
    for (size_t h = 0; h < kHeads; ++h) {
      const VChannel query = hn::LoadU(d, q[h] + e);
      const VChannel product = hn::Mul(query, step);
      base[h] = hn::MulAdd(query, lo, base[h]);
      sum[h] = hn::Add(product, sum[h]);
      largest[h] = hn::Max(hn::Abs(product), largest[h]);
      hn::Store(product, d, products[h] + e);
    }
  }
  HWY_UNROLL(8)
  for (size_t h = 0; h < kHeads; ++h) {
    const VChannel half_step = hn::MulAdd(hn::Set(d, 0.5f), sum[h], base[h]);
    out.base[h] = hn::GetLane(hn::SumOfLanes(d, half_step));
    const float most = hn::GetLane(hn::MaxOfLanes(d, largest[h]));
    out.unit[h] = most / 127;
    const VChannel inverse = hn::Set(d, most >= 0x1p-100f ? 127 / most : 0.0f);
    for (size_t e = 0; e < dim; e += hn::Lanes(d)) {
      const auto whole = hn::NearestInt(hn::Mul(hn::Load(d, products[h] + e), inverse));
      hn::StoreU(hn::DemoteTo(di8, whole), di8, out.weights[h] + e);
    }
  }
}

#if HWY_TARGET != HWY_SCALAR
using DByte = hn::Repartition<uint8_t, DToken>;
using DPair = hn::Repartition<int16_t, DToken>;
using VByte = hn::Vec<DByte>;
using VPair = hn::Vec<DPair>;

/// Sums of the products of adjacent bytes, levels 0..3 times signed weights.
HWY_INLINE VPair pair_products(VByte levels, VByte weights) {
#if HWY_TARGET == HWY_AVX2
  return VPair{_mm256_maddubs_epi16(levels.raw, weights.raw)};
#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  return VPair{_mm512_maddubs_epi16(levels.raw, weights.raw)};
#elif HWY_TARGET == HWY_SSE4
  return VPair{_mm_maddubs_epi16(levels.raw, weights.raw)};
#else
  const DPair d;
  const VPair a = hn::BitCast(d, levels);
  const VPair b = hn::BitCast(d, weights);
  const VPair low = hn::ShiftRight<8>(hn::ShiftLeft<8>(b));
  return hn::Add(hn::Mul(hn::And(a, hn::Set(d, 0xff)), low),
                 hn::Mul(hn::ShiftRight<8>(a), hn::ShiftRight<8>(b)));
#endif
}

/// Groups of channels whose sums fit 16 bits: a pair adds at most 2 * 3 * 127, a group 4 pairs.
inline constexpr size_t kGroupsAtOnce = 8;

/// Adds the 4 channels per bit pair of up to kGroupsAtOnce groups, for kVectors vectors of tokens.
template <size_t kHeads, size_t kVectors>
HWY_INLINE void add_groups(const uint8_t* levels, size_t group_bytes, size_t groups,
                           const PageWeights<kHeads>& page, size_t channel,
                           VPair (&sums)[kHeads][kVectors]) {
  const DByte d;
  const hn::Repartition<uint16_t, DByte> d16;
  const hn::Repartition<uint32_t, DByte> d32;
  constexpr size_t kBytes = hn::MaxLanes(DByte());
  const VByte mask = hn::Set(d, 3);
  for (size_t group = 0; group < groups; ++group, levels += group_bytes) {
    VByte packed[kVectors];
    HWY_UNROLL(2)
    for (size_t j = 0; j < kVectors; ++j) packed[j] = hn::LoadU(d, levels + j * kBytes);
    HWY_UNROLL(4)
    for (size_t i = 0; i < 4; ++i, channel += 4) {
      VByte level[kVectors];
      HWY_UNROLL(2)
      for (size_t j = 0; j < kVectors; ++j) {
        level[j] = hn::And(packed[j], mask);
        packed[j] = hn::BitCast(d, hn::ShiftRight<2>(hn::BitCast(d16, packed[j])));
      }
      HWY_UNROLL(8)
      for (size_t h = 0; h < kHeads; ++h) {
        uint32_t four = 0;
        std::memcpy(&four, page.weights[h] + channel, sizeof(four));
        const VByte weights = hn::BitCast(d, hn::Set(d32, four));
        HWY_UNROLL(2)
        for (size_t j = 0; j < kVectors; ++j) {
          sums[h][j] = hn::Add(sums[h][j], pair_products(level[j], weights));
        }
      }
    }
  }
}

/// sums[h][t] = weights . levels of every token, padded ones included.
template <size_t kHeads>
HWY_INLINE void multiply_levels(const Key2SketchView& sketch, int64_t page_index,
                                const PageWeights<kHeads>& page, float (&sums)[kHeads][kMaxPage]) {
  // As many tokens at once as registers hold sums of; padded tokens are a multiple of 16.
  constexpr size_t kVectors = kTokenLanes == 16 ? 1 : 2;
  const DToken d;
  const hn::Repartition<int32_t, DToken> d32;
  const auto tokens = static_cast<size_t>(sketch.padded_tokens());
  const auto groups = static_cast<size_t>(sketch.groups());
  const auto* levels = reinterpret_cast<const uint8_t*>(sketch.levels(page_index, 0, 0));
  for (size_t t = 0; t < tokens; t += kVectors * kTokenLanes) {
    for (size_t first = 0; first < groups; first += kGroupsAtOnce) {
      VPair pairs[kHeads][kVectors];
      HWY_UNROLL(8)
      for (size_t h = 0; h < kHeads; ++h) {
        HWY_UNROLL(2)
        for (size_t j = 0; j < kVectors; ++j) pairs[h][j] = hn::Zero(DPair());
      }
      add_groups<kHeads, kVectors>(levels + 4 * (first * tokens + t), 4 * tokens,
                                   std::min(kGroupsAtOnce, groups - first), page,
                                   first * kGroupChannels, pairs);
      HWY_UNROLL(8)
      for (size_t h = 0; h < kHeads; ++h) {
        HWY_UNROLL(2)
        for (size_t j = 0; j < kVectors; ++j) {
          const auto both = hn::BitCast(d32, pairs[h][j]);
          const auto sum =
              hn::Add(hn::ShiftRight<16>(both), hn::ShiftRight<16>(hn::ShiftLeft<16>(both)));
          float* to = sums[h] + t + j * kTokenLanes;
          const VToken before = first == 0 ? hn::Zero(d) : hn::Load(d, to);
          hn::Store(hn::Add(before, hn::ConvertTo(d, sum)), d, to);
        }
      }
    }
  }
}
#else
template <size_t kHeads>
void multiply_levels(const Key2SketchView& sketch, int64_t page_index,
                     const PageWeights<kHeads>& page, float (&sums)[kHeads][kMaxPage]) {
  for (int t = 0; t < sketch.padded_tokens(); ++t) {
    int sum[kHeads] = {};
    for (int group = 0; group < sketch.groups(); ++group) {
      const std::byte* bytes = sketch.levels(page_index, group, t);
      for (int channel = 0; channel < Key2SketchView::kGroup; ++channel) {
        const int level = std::to_integer<int>(bytes[channel % 4]) >> channel / 4 * 2 & 3;
        for (size_t h = 0; h < kHeads; ++h) {
          sum[h] += level * page.weights[h][group * Key2SketchView::kGroup + channel];
        }
      }
    }
    for (size_t h = 0; h < kHeads; ++h) sums[h][t] = static_cast<float>(sum[h]);
  }
}
#endif  // HWY_TARGET != HWY_SCALAR

/// log2 sum 2^(factor * sum + offset) over the tokens, as the highest exponent and the rest.
HWY_INLINE void log_mass(float* sums, size_t tokens, size_t padded, float factor, float offset,
                         float& highest, float& mass) {
  const DToken d;
  const VToken f = hn::Set(d, factor);
  const VToken o = hn::Set(d, offset);
  VToken most = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (size_t t = 0; t < padded; t += kTokenLanes) {
    hn::Store(hn::MulAdd(hn::Load(d, sums + t), f, o), d, sums + t);
  }
  std::fill(sums + tokens, sums + padded, -std::numeric_limits<float>::infinity());
  for (size_t t = 0; t < padded; t += kTokenLanes) most = hn::Max(most, hn::Load(d, sums + t));
  most = hn::MaxOfLanes(d, most);
  VToken sum = hn::Zero(d);
  for (size_t t = 0; t < padded; t += kTokenLanes) {
    sum = hn::Add(sum, exp2(d, hn::Sub(hn::Load(d, sums + t), most)));
  }
  highest = hn::GetLane(most);
  mass = hn::GetLane(hn::SumOfLanes(d, sum));
}

HWY_INLINE void fetch_page(const Key2SketchView& sketch, int64_t page) {
  const std::byte* data = sketch.lo(page);
  for (size_t b = 0; b < sketch.page_bytes(); b += 64) hwy::Prefetch(data + b);
}

template <DType kType, size_t kHeads>
void score_key2_heads(View<const float, 2> q, const Key2SketchView& sketch, float scale,
                      std::span<const int32_t> pages, View<float, 2> scores, int64_t g) {
  const float* queries[kHeads];
  for (size_t h = 0; h < kHeads; ++h) queries[h] = q[g + static_cast<int64_t>(h)].data();
  const auto tokens = static_cast<size_t>(sketch.page);
  const auto padded = static_cast<size_t>(sketch.padded_tokens());
  const float scale2 = scale * kLog2E;
  PageWeights<kHeads> page;
  // What pads the last group counts nothing.
  std::memset(page.weights, 0, sizeof(page.weights));
  HWY_ALIGN float sums[kHeads][kMaxPage];
  HWY_ALIGN float highest[kHeads][kLogPages];
  HWY_ALIGN float mass[kHeads][kLogPages];
  for (size_t first = 0; first < pages.size(); first += kLogPages) {
    const size_t count = std::min(kLogPages, pages.size() - first);
    for (size_t i = 0; i < count; ++i) {
      const int64_t index = pages[first + i];
      // Listed pages lie anywhere, and even those in a row begin where the prefetcher stopped.
      if (first + i + 1 < pages.size()) fetch_page(sketch, pages[first + i + 1]);
      weigh_page<kType, kHeads>(queries, sketch, index, page);
      multiply_levels<kHeads>(sketch, index, page, sums);
      for (size_t h = 0; h < kHeads; ++h) {
        log_mass(sums[h], tokens, padded, scale2 * page.unit[h], scale2 * page.base[h],
                 highest[h][i], mass[h][i]);
      }
    }
    const DToken d;
    for (size_t h = 0; h < kHeads; ++h) {
      for (size_t i = count; i < kLogPages; ++i) highest[h][i] = mass[h][i] = 1;
      for (size_t i = 0; i < kLogPages; i += kTokenLanes) {
        const VToken log = hn::Log(d, hn::Load(d, mass[h] + i));
        const VToken top = hn::Load(d, highest[h] + i);
        hn::Store(hn::MulAdd(top, hn::Set(d, 1 / kLog2E), log), d, highest[h] + i);
      }
      std::copy_n(highest[h], count, scores[g + static_cast<int64_t>(h)].data() + first);
    }
  }
}

template <DType kType>
void score_key2(View<const float, 2> q, const Key2SketchView& sketch, float scale,
                std::span<const int32_t> pages, View<float, 2> scores) {
  int64_t g = 0;
  const auto take = [&](auto heads) {
    constexpr size_t kHeads = decltype(heads)::value;
    for (; g + static_cast<int64_t>(kHeads) <= q.shape(0); g += static_cast<int64_t>(kHeads)) {
      score_key2_heads<kType, kHeads>(q, sketch, scale, pages, scores, g);
    }
  };
  if constexpr (kTokenLanes == 16) take(std::integral_constant<size_t, 8>{});
  take(std::integral_constant<size_t, 4>{});
  take(std::integral_constant<size_t, 3>{});
  take(std::integral_constant<size_t, 2>{});
  take(std::integral_constant<size_t, 1>{});
}

void score_key2_any(View<const float, 2> q, const Key2SketchView& sketch, float scale,
                    std::span<const int32_t> pages, View<float, 2> scores) {
  dispatch_kv_dtype(sketch.dtype, [&](auto type) {
    score_key2<decltype(type)::value>(q, sketch, scale, pages, scores);
  });
}

}  // namespace freekv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
