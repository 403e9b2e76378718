// What operations work on: weights as they lie in the file, and pools of KV pages.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.hpp"

namespace freekv {

/// A weight matrix [rows, cols], row-major in its own dtype, borrowed from the mapped model file.
/// A linear layer computes out[t, n] = sum_k x[t, k] * weight[n, k].
struct WeightView {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  size_t stride() const { return row_bytes(dtype, cols); }
  const std::byte* row(int64_t i) const { return data + static_cast<size_t>(i) * stride(); }
};

/// Where the K and V of a page lie (FreeKV 4.1).
enum class KvLayout : uint8_t {
  kNHD,  // token-major [slot][K|V][page][heads][dim]: the fast tier, what the projection writes
  kHND,  // head-major [slot][heads][K|V][page][dim]: the slow tier; a head's page is contiguous
};

/// Geometry of KV, the same in both tiers. `heads` counts KV heads (M), `page` tokens (p).
struct KvShape {
  int heads = 0;
  int head_dim = 0;
  int page = 0;
  DType dtype = DType::kF16;  // F32, F16 or BF16

  bool operator==(const KvShape&) const = default;

  /// Bytes of one token of one head, K or V.
  size_t token_bytes() const { return row_bytes(dtype, head_dim); }
  /// Bytes of K and V of one page of one head: the unit of recall.
  size_t head_page_bytes() const { return 2 * static_cast<size_t>(page) * token_bytes(); }
  /// Bytes of a slot: one page, all heads.
  size_t slot_bytes() const { return static_cast<size_t>(heads) * head_page_bytes(); }
};

/// An array of slots in one layout, borrowed from the cache that owns it.
struct KvPool {
  std::byte* data = nullptr;
  KvShape shape;
  KvLayout layout = KvLayout::kNHD;
  int32_t slots = 0;

  /// Distance between the same head's consecutive tokens.
  size_t token_stride() const {
    return layout == KvLayout::kNHD ? shape.token_bytes() * static_cast<size_t>(shape.heads)
                                    : shape.token_bytes();
  }
  /// First token's key of `head` in `slot`; the others follow at token_stride().
  std::byte* keys(int32_t slot, int head) const {
    std::byte* base = data + static_cast<size_t>(slot) * shape.slot_bytes();
    return layout == KvLayout::kNHD ? base + static_cast<size_t>(head) * shape.token_bytes()
                                    : base + static_cast<size_t>(head) * shape.head_page_bytes();
  }
  std::byte* values(int32_t slot, int head) const {
    const size_t half =
        layout == KvLayout::kNHD ? shape.slot_bytes() / 2 : shape.head_page_bytes() / 2;
    return keys(slot, head) + half;
  }
};

enum class BoxKind : uint8_t {
  kMinMax,  // hi = max, lo = min over the page's keys (Quest)
  kCuboid,  // centre +- mean absolute deviation from it (ArkVale)
  kMean,    // the mean key, a box without extent: hi alone is kept (ShadowKV's landmarks)
};

/// Box sketches of the complete pages of one (sequence, layer, KV head), in blocks of 16 pages so
/// that SIMD runs over pages: [block][hi|lo][dim][16]. Values are in `dtype`, the KV dtype.
struct BoxSketchView {
  static constexpr int kBlockPages = 16;
  std::byte* data = nullptr;
  DType dtype = DType::kF16;
  int head_dim = 0;
  BoxKind kind = BoxKind::kMinMax;

  /// Values kept of a channel.
  int bounds() const { return kind == BoxKind::kMean ? 1 : 2; }
  size_t block_bytes() const {
    return static_cast<size_t>(bounds() * head_dim) * row_bytes(dtype, kBlockPages);
  }
  /// The upper bounds of one dimension for the kBlockPages pages of a block, contiguous.
  std::byte* hi(int64_t block, int dim) const {
    return data + static_cast<size_t>(block) * block_bytes() +
           static_cast<size_t>(dim) * row_bytes(dtype, kBlockPages);
  }
  /// The lower bounds, likewise; hi() again where there is one bound.
  std::byte* lo(int64_t block, int dim) const {
    return hi(block, dim) + (bounds() == 2 ? block_bytes() / 2 : 0);
  }
};

/// Keys of 2 bits of the complete pages of one (sequence, layer, KV head), page after page: per
/// channel `lo` and `step` in `dtype`, and for every token a level 0..3 that stands for the key
/// lo + step * (level + 1/2). Levels lie in groups of 16 channels, [group][token][4 bytes]; bits 2i
/// and 2i + 1 of byte c belong to channel 16 * group + 4 * i + c, so that one shift and one mask of
/// a vector give [token][4 channels]. Channels and tokens are padded with zeros to multiples of 16.
struct Key2SketchView {
  static constexpr int kGroup = 16;
  std::byte* data = nullptr;
  DType dtype = DType::kF16;
  int head_dim = 0;
  int page = 0;  // tokens

  int groups() const { return (head_dim + kGroup - 1) / kGroup; }
  int padded_tokens() const { return (page + kGroup - 1) / kGroup * kGroup; }
  size_t page_bytes() const {
    return 2 * row_bytes(dtype, head_dim) + 4 * static_cast<size_t>(groups() * padded_tokens());
  }
  /// [head_dim], contiguous.
  std::byte* lo(int64_t page) const { return data + static_cast<size_t>(page) * page_bytes(); }
  /// [head_dim], contiguous.
  std::byte* step(int64_t page) const { return lo(page) + row_bytes(dtype, head_dim); }
  /// The 4 bytes of one token and group.
  std::byte* levels(int64_t page, int group, int token) const {
    return step(page) + row_bytes(dtype, head_dim) +
           4 * static_cast<size_t>(group * padded_tokens() + token);
  }
};

/// The mean values of the complete pages of one (sequence, layer, KV head), page after page: what
/// stands for the values of a page that is not attended to. In `dtype`, the KV dtype.
struct MeanValuesView {
  std::byte* data = nullptr;
  DType dtype = DType::kF16;
  int head_dim = 0;

  size_t page_bytes() const { return row_bytes(dtype, head_dim); }
  /// [head_dim], contiguous.
  std::byte* mean(int64_t page) const { return data + static_cast<size_t>(page) * page_bytes(); }
};

/// The sketches that a device builds and scores itself (RetrievalRule, retrieval_rule.hpp).
enum class SketchKind : uint8_t {
  kMinMax,  // the highest and the lowest key per channel
  kKey2,    // keys of 2 bits, as Key2SketchView says
};

/// How the G query heads' page scores become one per KV head (FreeKV, ablation of pooling).
enum class Pooling : uint8_t { kMeanSoftmax, kMaxSoftmax, kMeanScore, kMaxScore };

}  // namespace freekv
