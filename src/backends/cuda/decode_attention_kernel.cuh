// The kernel of decode attention: grid rows x splits. Each CTA attends to its split of a row with
// four warps and merges them; the CTA of a row that ends last merges the splits. Both merges go in
// the order of warps and splits, so that timing shows nowhere.
#pragma once

#include "backends/cuda/decode_attention_warp.cuh"
#include "backends/cuda/launch.cuh"

namespace freekv::cuda::decode {

inline constexpr int kMaxSplits = 512;

/// Where CTAs of a row leave what they have for the one that ends last.
struct Scratch {
  unsigned* ended = nullptr;  // [R]: CTAs of a row that are done; zero between launches
  float2* ends = nullptr;     // [R][splits][G]: maximum and mass
  float* sums = nullptr;      // [R][splits][G][d]
};

/// Shared memory of a CTA, in this order.
template <int kDim>
struct SharedMemory {
  using S = Shape<kDim>;
  static constexpr int kMergePitch = kDim + 8;  // floats: the rows of a store meet all banks once
  static_assert(kWarps * kRows * kMergePitch * 4 <= kWarps * S::kStages * S::kUnit);
  static_assert(kMaxSplits * kRows * 8 <= kWarps * S::kStages * S::kUnit);

  __device__ explicit SharedMemory(uint4* base)
      : query(base),
        top(reinterpret_cast<float*>(base + S::kQuery / 16)),
        mass(top + kWarps * kRows),
        flag(reinterpret_cast<int*>(mass + kWarps * kRows)),
        stages(base + (S::kQuery + S::kEnds) / 16),
        sums(reinterpret_cast<float*>(stages)),
        ends(reinterpret_cast<float2*>(stages)) {}

  /// Stages of the calling warp.
  __device__ uint32_t warp_stages() const {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    return shared_address(stages) + warp * S::kStages * S::kUnit;
  }

  uint4* query;  // fragments
  float* top;    // [warps][16]
  float* mass;   // [warps][16]
  int* flag;
  uint4* stages;  // [warps][stages] units; once all are read, one of the next two
  float* sums;    // [warps][16][kMergePitch]
  float2* ends;   // [splits][G]
};

/// Four values of a row, and what they are relative to.
struct Merged {
  float4 sum = {0, 0, 0, 0};
  float top = -INFINITY;
  float mass = 0;

  __device__ void add(float weight, float its_mass, float4 its_sum) {
    mass += weight * its_mass;
    sum.x += weight * its_sum.x;
    sum.y += weight * its_sum.y;
    sum.z += weight * its_sum.z;
    sum.w += weight * its_sum.w;
  }
  __device__ float4 normalized() const {
    const float by = 1.0f / mass;
    return make_float4(sum.x * by, sum.y * by, sum.z * by, sum.w * by);
  }
};

/// To shared memory, where all warps can read it. Every warp has left its stages when this returns.
template <KvType kType, int kDim>
__device__ void publish(const Attention<kType, kDim>& attention, int group,
                        const SharedMemory<kDim>& shared) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  __syncthreads();  // the sums overlay all stages
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int g = lane / 4 + 8 * h;
    if (g >= group) continue;
    const int row = warp * kRows + g;
    if (lane % 4 == 0) {
      shared.top[row] = attention.top[h];
      shared.mass[row] = attention.mass[h];
    }
    float* sums = shared.sums + row * SharedMemory<kDim>::kMergePitch + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      *reinterpret_cast<float2*>(sums + i * 8) =
          make_float2(attention.sum[i][2 * h], attention.sum[i][2 * h + 1]);
    }
  }
  __syncthreads();
}

/// Values e .. e + 3 of query head g over the warps of this CTA.
template <int kDim>
__device__ Merged merge_warps(const SharedMemory<kDim>& shared, int g, int e) {
  Merged merged;
  for (int w = 0; w < kWarps; ++w) merged.top = fmaxf(merged.top, shared.top[w * kRows + g]);
  for (int w = 0; w < kWarps; ++w) {
    const int row = w * kRows + g;
    const float* sums = shared.sums + row * SharedMemory<kDim>::kMergePitch + e;
    // A warp without tiles has maximum -inf, so weight 0.
    merged.add(exp2_fast(shared.top[row] - merged.top), shared.mass[row],
               *reinterpret_cast<const float4*>(sums));
  }
  return merged;
}

/// Four values of a row in all splits, a batch of them on its way at a time: the more, the fewer
/// trips to memory one after the other. `ends` in shared memory, `sums` in scratch, from the four
/// values of the first split on, `stride` values apart.
class SplitMerge {
 public:
  __device__ SplitMerge(const float* sums, int stride, int used)
      : sums_(sums), stride_(stride), used_(used) {
    request(0);
  }

  __device__ Merged merged(const float2* ends, int group, int g) {
    Merged all;
    for (int s = 0; s < used_; ++s) all.top = fmaxf(all.top, ends[s * group + g].x);
    for (int first = 0; first < used_; first += kBatch) {
      if (first > 0) request(first);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (first + i >= used_) break;
        const float2 end = ends[(first + i) * group + g];
        all.add(exp2_fast(end.x - all.top), end.y, parts_[i]);
      }
    }
    return all;
  }

 private:
  static constexpr int kBatch = 20;

  __device__ void request(int first) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int s = min(first + i, used_ - 1);
      parts_[i] = __ldcg(reinterpret_cast<const float4*>(sums_ + int64_t{s} * stride_));
    }
  }

  const float* sums_;
  int stride_;
  int used_;
  float4 parts_[kBatch];
};

/// Whether this CTA is the last of the row's `used` to come here; then it sees what the others
/// left.
__device__ inline bool is_last(unsigned* ended, int used, int* flag) {
  __threadfence();  // what this thread wrote is there before the count says so
  __syncthreads();
  if (threadIdx.x == 0) {
    const bool last = atomicAdd(ended, 1u) == static_cast<unsigned>(used - 1);
    if (last) *ended = 0;  // nobody comes after it; the next launch finds zero
    *flag = last ? 1 : 0;
  }
  __syncthreads();
  __threadfence();
  return *flag != 0;
}

/// This CTA's part goes to scratch; the last CTA of the row writes `out`.
template <int kDim>
__device__ void combine(const SharedMemory<kDim>& shared, const Scratch& scratch, int row,
                        int splits, int split, int used, int group, float* out) {
  const int64_t first = int64_t{row} * splits * group;  // of all splits of the row
  float2* ends = scratch.ends + first;
  float* sums = scratch.sums + first * kDim;
  for (int i = static_cast<int>(threadIdx.x); i < group * kDim / 4; i += kThreads) {
    const int g = i * 4 / kDim;
    const int e = i * 4 % kDim;
    const Merged merged = merge_warps(shared, g, e);
    const int at = split * group + g;
    if (e == 0) ends[at] = make_float2(merged.top, merged.mass);
    *reinterpret_cast<float4*>(sums + int64_t{at} * kDim + e) = merged.sum;
  }
  if (!is_last(scratch.ended + row, used, shared.flag)) return;
  const int quads = group * kDim / 4;
  for (int first = 0; first < quads; first += kThreads) {
    const int own = first + static_cast<int>(threadIdx.x), i = min(own, quads - 1);
    SplitMerge merge(sums + i * 4, group * kDim, used);
    if (first == 0) {  // behind the first sums
      for (int j = static_cast<int>(threadIdx.x); j < used * group; j += kThreads) {
        shared.ends[j] = __ldcg(ends + j);
      }
      __syncthreads();
    }
    const Merged merged = merge.merged(shared.ends, group, i * 4 / kDim);
    if (own < quads) reinterpret_cast<float4*>(out)[i] = merged.normalized();
  }
}

/// Of a thread. Two CTAs leave those of a side branch's CTA (choose_pages.cu) on an SM: they fill
/// the device, and one without a place would begin when all others end. Large heads need all.
template <int kDim>
constexpr int kRegisters = kDim <= 128 ? 224 : 255;

template <KvType kType, int kDim>
__global__ void __maxnreg__(kRegisters<kDim>)
    decode_attention_kernel(const __grid_constant__ DecodeAttentionParams params,
                            const Scratch scratch) {
  extern __shared__ uint4 decode_attention_shared[];
  const SharedMemory<kDim> shared(decode_attention_shared);
  const int group = params.kv.group;
  const int r = static_cast<int>(blockIdx.x) / params.splits;
  const int split = static_cast<int>(blockIdx.x) % params.splits;
  const int b = r / params.kv.kv_heads;
  const int head = r % params.kv.kv_heads;
  let_next_start();
  // What no kernel of a step writes can be read before the last one has ended.
  const SequenceLayer layer = params.batch.layer(b, params.layer);
  const int64_t tokens = params.batch.length(b);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  RowPages row;
  Share share;
  TileStream<kDim> tiles(params, row, layer.fast, head, shared.warp_stages());
  const auto aim = [&](RowMode mode) {
    row = row_pages(params.map, layer, tokens, head, mode);
    share = share_of(row.tiles, params.splits, split);
    tiles.aim(share.first + warp, split < share.used ? share.last : 0);
  };
  // So can a row's pages, if its mode is what it is most often, but for this step's token.
  const bool dense = !layer.retrieves || !params.map.over_budget(tokens);
  const RowMode expected = dense ? RowMode::kDense : RowMode::kSpeculative;
  bool started = false;
  if (dense || params.expects_speculative) {
    aim(expected);
    started = !tiles.has_last();
    if (started) tiles.start_first();
  }
  wait_for_previous();

  const int64_t at = int64_t{r} * group * kDim;
  constexpr float kLog2E = 1.4426950408889634f;
  const RowMode mode = params.mode[r];  // on its way together with the query
  Query<kType, kDim>::stage(shared.query, params.q + at, group, params.scale * kLog2E);
  if (!started || mode != expected) {
    wait_copies<0>();
    __syncwarp();
    aim(mode);
    tiles.start_first();
  }
  if (split >= share.used) return wait_copies<0>();

  __syncthreads();
  const Query<kType, kDim> query(shared.query);
  Attention<kType, kDim> attention;
  for (int32_t j = 0; j < tiles.count(); ++j) attention.add(tiles, j, query);
  wait_copies<0>();
  attention.share_mass();
  publish(attention, group, shared);

  float* out = params.out + at;
  if (share.used > 1) {
    combine(shared, scratch, r, params.splits, split, share.used, group, out);
    return;
  }
  for (int i = static_cast<int>(threadIdx.x); i < group * kDim / 4; i += kThreads) {
    const Merged merged = merge_warps(shared, i * 4 / kDim, i * 4 % kDim);
    reinterpret_cast<float4*>(out)[i] = merged.normalized();
  }
}

}  // namespace freekv::cuda::decode
