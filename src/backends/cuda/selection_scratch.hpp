// How score_pages hands its results to choose_pages: the layout of SelectParams::scratch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/cuda/layout.hpp"
#include "backends/cuda/selection.hpp"

namespace freekv::cuda {

/// Candidates that one CTA scores, and that one partial softmax covers. A constant, so that a sum
/// over the parts has the same order whatever the batch.
inline constexpr int kScoreSplit = 64;

/// exp(x) is computed as 2^(x * kLog2E).
inline constexpr float kLog2E = 1.44269504f;

/// One query head's softmax over the candidates of a split, without its common factor:
/// sum of exp(scale * (score - highest)). All scores -inf or NaN: highest = -inf and the sum is
/// that of exp(scale * score), so 0 or NaN.
struct SplitSoftmax {
  float highest = 0;
  float sum = 0;
};

/// [scores [R][G][stride]] [pooled [R][stride]] [splits [R][G][stride / kScoreSplit]], and with
/// SelectParams::mass [common [R][G][common_pages]], a part of the softmax for each page of sink
/// and window. Candidate i is page PageMap::sink + i. Of a row's scores and splits only whole
/// splits that hold a candidate are written (past the last candidate the scores mean nothing), and
/// none where all candidates are selected anyway, but with SelectParams::mass; the splits only for
/// pooling with a softmax.
struct SelectionScratch {
  int32_t group = 0;
  int64_t stride = 0;  // padded(max_candidates)
  float* scores = nullptr;
  float* pooled = nullptr;
  SplitSoftmax* splits = nullptr;
  int32_t common_pages = 0;
  SplitSoftmax* common = nullptr;

  FREEKV_HOST_DEVICE explicit SelectionScratch(const SelectParams& params)
      : group(params.kv.group), stride(padded(params.max_candidates)) {
    const int64_t rows = int64_t{params.batch.n} * params.kv.kv_heads;
    scores = static_cast<float*>(params.scratch);
    pooled = scores + rows * group * stride;
    splits = reinterpret_cast<SplitSoftmax*>(pooled + rows * stride);
    common_pages = params.mass ? params.map.sink + params.map.ring() : 0;
    common = splits + rows * group * (stride / kScoreSplit);
  }

  /// Candidates in whole splits.
  static FREEKV_HOST_DEVICE int64_t padded(int32_t candidates) {
    return (int64_t{candidates} + kScoreSplit - 1) / kScoreSplit * kScoreSplit;
  }
  FREEKV_HOST_DEVICE float* row_scores(int row, int g) const {
    return scores + (int64_t{row} * group + g) * stride;
  }
  FREEKV_HOST_DEVICE float* row_pooled(int row) const { return pooled + row * stride; }
  FREEKV_HOST_DEVICE SplitSoftmax* row_splits(int row, int g) const {
    return splits + (int64_t{row} * group + g) * (stride / kScoreSplit);
  }
  FREEKV_HOST_DEVICE SplitSoftmax* row_common(int row, int g) const {
    return common + (int64_t{row} * group + g) * common_pages;
  }
};

/// A row's candidates, of those that the scratch has room for.
FREEKV_HOST_DEVICE inline int32_t row_candidates(const SelectParams& params, int b) {
  const int32_t n = params.map.candidates(params.batch.length(b) + params.ahead);
  return n < params.max_candidates ? n : params.max_candidates;
}

/// Whether a row of n candidates is scored: where all are selected only for their mass.
FREEKV_HOST_DEVICE inline bool needs_scores(const SelectParams& params, int32_t n) {
  return params.mass || n > params.map.selected;
}

FREEKV_HOST_DEVICE constexpr bool has_softmax(Pooling rule) {
  return rule == Pooling::kMeanSoftmax || rule == Pooling::kMaxSoftmax;
}

}  // namespace freekv::cuda
