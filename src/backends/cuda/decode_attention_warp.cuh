// What one warp of decode attention does: it streams tiles of 16 tokens through shared memory and
// attends to them with tensor cores. The query heads of the KV head are the 16 rows of the product,
// those past the group zero.
#pragma once

#include <algorithm>

#include "backends/cuda/decode_attention_pages.cuh"
#include "backends/cuda/decode_attention_ptx.cuh"

namespace freekv::cuda::decode {

inline constexpr int kRows = 16;  // query heads of a row, padded

/// Shared memory of a CTA. A unit is K or V of one tile; a warp has kStages of them in turn.
template <int kDim>
struct Shape {
  static constexpr int kSteps = kDim / 16;  // products of depth 16 along the head dimension
  static constexpr int kChunks = kDim / 8;  // 16-byte chunks of a token
  // An odd number of chunks from token to token: the rows of an 8x8 matrix meet all banks once.
  static constexpr int kPitch = (kChunks + 1) * 16;
  static constexpr int kUnit = kTile * kPitch;
  static constexpr int kQuery = 2 * kSteps * 32 * 16;        // fragments: hi and lo
  static constexpr int kEnds = 2 * kWarps * kRows * 4 + 16;  // maxima and masses; a flag
  // Within 96 KiB: every GPU from sm_80 on gives a block that much, and Hopper two blocks.
  static constexpr int kStages = std::min(8, (96 * 1024 - kQuery - kEnds) / (kWarps * kUnit));
  static constexpr int kShared = kQuery + kEnds + kWarps * kStages * kUnit;
  static_assert(kDim % 16 == 0 && kStages >= 2);
};

/// Brings the tiles first, first + kWarps, ... below `last` of a row to shared memory: units 2j and
/// 2j + 1 are K and V of the j-th of them.
template <int kDim>
class TileStream {
 public:
  using S = Shape<kDim>;

  __device__ TileStream(const DecodeAttentionParams& params, const RowPages& row, const void* fast,
                        int head, uint32_t stages)
      : params_(params),
        row_(row),
        fast_(static_cast<const uint16_t*>(fast)),
        head_(head),
        stages_(stages),
        lane_(static_cast<int>(threadIdx.x) % 32),
        tiles_per_page_(params.map.page / kTile) {}

  /// Which tiles; while no copy is on its way.
  __device__ void aim(int32_t first, int32_t last) {
    first_ = first;
    last_ = last;
    count_ = last > first ? (last - first + kWarps - 1) / kWarps : 0;
  }

  __device__ int32_t count() const { return count_; }
  /// Whether the row's last tile is among them.
  __device__ bool has_last() const {
    return count_ > 0 && first_ + (count_ - 1) * kWarps == row_.tiles - 1;
  }
  __device__ uint32_t stage(int32_t unit) const { return stages_ + unit % S::kStages * S::kUnit; }
  /// Tokens of the j-th tile.
  __device__ int32_t tokens(int32_t j) const {
    return first_ + j * kWarps == row_.tiles - 1 ? row_.last_tokens : kTile;
  }

  /// Starts the copy of a unit; units are asked for in order. One past the end is an empty group.
  __device__ void start(int32_t unit) {
    if (unit < 2 * count_) {
      const int32_t j = unit / 2;
      if (unit % 2 == 0 && j % 32 == 0) look_up(j);
      copy(j, unit % 2 != 0, __shfl_sync(kAllLanes, slot_, j % 32), stage(unit));
    }
    close_copies();
  }
  __device__ void start_first() {
    for (int32_t unit = 0; unit < S::kStages - 1; ++unit) start(unit);
  }
  /// Waits for a unit, and starts the one that takes the place of the unit before it.
  __device__ void next(int32_t unit) {
    wait_copies<S::kStages - 2>();
    __syncwarp();  // the others' copies are here, and all have read the unit before
    start(unit + S::kStages - 1);
  }

 private:
  /// Each lane finds the slot of one of the next 32 tiles: page tables cost two trips to memory.
  __device__ void look_up(int32_t j) {
    const int32_t tile = first_ + (j + lane_) * kWarps;
    slot_ = tile < last_ ? row_.slot(params_.map, tile / tiles_per_page_) : 0;
  }

  __device__ void copy(int32_t j, bool value, int32_t slot, uint32_t to) const {
    const KvGeometry& kv = params_.kv;
    const int32_t tile = first_ + j * kWarps;
    const int32_t token = tile % tiles_per_page_ * kTile;
    const uint16_t* from =
        fast_ + (value ? kv.fast_value(slot, token, head_) : kv.fast_key(slot, token, head_));
    const int32_t stride = kv.kv_heads * kDim;
    const int32_t present = tokens(j);
#pragma unroll
    for (int i = 0; i < 2 * kDim / 32; ++i) {
      const int at = lane_ + 32 * i;
      const int t = at / S::kChunks;
      const int chunk = at % S::kChunks;
      // A token that is not there is zeros, for 0 * NaN would spoil the sum; its address is one
      // that may be read.
      const bool here = t < present;
      copy_16(to + t * S::kPitch + chunk * 16, from + (here ? t * stride : 0) + chunk * 8,
              here ? 16 : 0);
    }
  }

  const DecodeAttentionParams& params_;
  const RowPages& row_;
  const uint16_t* fast_;
  int head_;
  int32_t first_ = 0;
  int32_t last_ = 0;
  int32_t count_ = 0;
  uint32_t stages_;
  int lane_;
  int32_t tiles_per_page_;
  int32_t slot_ = 0;  // of tile j with j % 32 == lane
};

/// The query in the layout of the product, times the factor of the scores. Each value is the sum of
/// two of the KV type, hi and lo, so that only K's own rounding shows in the scores.
template <KvType kType, int kDim>
class Query {
 public:
  using S = Shape<kDim>;
  // Registers where they suffice; shared memory for 256 dimensions.
  static constexpr bool kInRegisters = kDim <= 128;

  /// All threads of the CTA together: to `fragments` in shared memory, S::kQuery bytes.
  static __device__ void stage(uint4* fragments, const float* q, int group, float factor) {
    for (int i = static_cast<int>(threadIdx.x); i < S::kSteps * 32; i += kThreads) {
      const int row = i % 32 / 4;
      const int column = i / 32 * 16 + i % 4 * 2;
      uint2 part[4];
#pragma unroll
      for (int a = 0; a < 4; ++a) {
        const int g = row + a % 2 * 8;
        const int e = column + a / 2 * 8;
        part[a] = g < group ? halves(q + g * kDim + e, factor) : make_uint2(0, 0);
      }
      fragments[i] = make_uint4(part[0].x, part[1].x, part[2].x, part[3].x);
      fragments[S::kSteps * 32 + i] = make_uint4(part[0].y, part[1].y, part[2].y, part[3].y);
    }
  }

  /// After stage() and a barrier.
  __device__ explicit Query(const uint4* fragments)
      : fragments_(fragments + static_cast<int>(threadIdx.x) % 32) {
    if constexpr (kInRegisters) {
#pragma unroll
      for (int i = 0; i < 2 * S::kSteps; ++i) held_[i] = fragments_[i * 32];
    }
  }

  /// part: 0 hi, 1 lo.
  __device__ uint4 at(int part, int step) const {
    const int i = part * S::kSteps + step;
    if constexpr (kInRegisters) {
      return held_[i];
    } else {
      return fragments_[i * 32];
    }
  }

 private:
  static __device__ uint2 halves(const float* q, float factor) {
    const float2 two = *reinterpret_cast<const float2*>(q);
    const float x = two.x * factor;
    const float y = two.y * factor;
    const uint32_t hi = Arithmetic<kType>::pack(x, y);
    const float2 back = Arithmetic<kType>::unpack(hi);
    return make_uint2(hi, Arithmetic<kType>::pack(x - back.x, y - back.y));
  }

  const uint4* fragments_;
  uint4 held_[kInRegisters ? 2 * S::kSteps : 1];
};

/// softmax(q K) V of the tiles so far, online. Index h of two: row lane / 4 + 8 h.
template <KvType kType, int kDim>
struct Attention {
  using S = Shape<kDim>;
  using A = Arithmetic<kType>;

  float sum[kDim / 8][4] = {};  // [8 columns each]: as in the product
  float top[2] = {-INFINITY, -INFINITY};
  float mass[2] = {};  // of this lane's tokens only, until share_mass()

  __device__ void add(TileStream<kDim>& tiles, int32_t j, const Query<kType, kDim>& query) {
    float scores[2][4];
    tiles.next(2 * j);
    score(tiles.stage(2 * j), query, scores);
    mask(tiles.tokens(j), scores);
    uint32_t weights[4];
    weigh(scores, weights);
    tiles.next(2 * j + 1);
    add_values(tiles.stage(2 * j + 1), weights);
  }

  __device__ void share_mass() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      mass[h] += __shfl_xor_sync(kAllLanes, mass[h], 1);
      mass[h] += __shfl_xor_sync(kAllLanes, mass[h], 2);
    }
  }

 private:
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }

  /// scores[i]: tokens 8i .. 8i + 7 of the tile, as in the product.
  static __device__ void score(uint32_t keys, const Query<kType, kDim>& query,
                               float (&scores)[2][4]) {
    // Matrices: tokens 0-7 first and second half of the depth, then tokens 8-15.
    const int token = lane() / 16 * 8 + lane() % 8;
    const uint32_t row = keys + token * S::kPitch + lane() / 8 % 2 * 16;
    float part[2][2][4] = {};  // [hi, lo]: four chains of products that do not wait for each other
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t k[4];
      load_matrices(k, row + step * 32);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint4 at = query.at(i, step);
        const uint32_t q[4] = {at.x, at.y, at.z, at.w};
        A::multiply(part[i][0], q, k[0], k[1]);
        A::multiply(part[i][1], q, k[2], k[3]);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
      scores[i / 4][i % 4] = part[0][i / 4][i % 4] + part[1][i / 4][i % 4];
  }

  static __device__ void mask(int32_t tokens, float (&scores)[2][4]) {
    if (tokens == kTile) return;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int token = i / 4 * 8 + lane() % 4 * 2 + i % 2;
      if (token >= tokens) scores[i / 4][i % 4] = -INFINITY;
    }
  }

  /// Weights in the KV type, relative to the new maximum, and what came before relative to it too.
  __device__ void weigh(const float (&scores)[2][4], uint32_t (&weights)[4]) {
    float shrink[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float most = fmaxf(fmaxf(scores[0][2 * h], scores[0][2 * h + 1]),
                         fmaxf(scores[1][2 * h], scores[1][2 * h + 1]));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
      most = fmaxf(most, top[h]);
      shrink[h] = exp2_fast(top[h] - most);
      top[h] = most;
      mass[h] *= shrink[h];
      const float base = most - A::kLift;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        weights[2 * i + h] =
            A::pack(exp2_fast(scores[i][2 * h] - base), exp2_fast(scores[i][2 * h + 1] - base));
        // What is multiplied with V is what counts, so that the weights add up to one.
        const float2 rounded = A::unpack(weights[2 * i + h]);
        mass[h] += rounded.x + rounded.y;
      }
    }
    if (__any_sync(kAllLanes, shrink[0] != 1 || shrink[1] != 1) == 0) return;
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) sum[i / 4][i % 4] *= shrink[i % 4 / 2];
  }

  __device__ void add_values(uint32_t values, const uint32_t (&weights)[4]) {
    // Matrices: columns 0-7 of tokens 0-7 and 8-15, then columns 8-15.
    const uint32_t row = values + lane() % 16 * S::kPitch + lane() / 16 * 16;
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t v[4];
      load_transposed(v, row + step * 32);
      A::multiply(sum[2 * step], weights, v[0], v[1]);
      A::multiply(sum[2 * step + 1], weights, v[2], v[3]);
    }
  }
};

}  // namespace freekv::cuda::decode
