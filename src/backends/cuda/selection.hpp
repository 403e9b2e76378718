// Selection on the device: sketches, page scores, pooling over the group, top-k, and what of
// it must move (algorithm.md, sections 2 to 4). No host in the loop: which rows take part is read
// from RowMode, and a launch without work ends at once.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "backends/cuda/layout.hpp"
#include "backends/tensors.hpp"

namespace freekv::cuda {

struct SelectParams {
  Batch batch;
  KvGeometry kv;
  PageMap map;
  int32_t layer = 0;
  float scale = 1;        // of scores before a softmax
  float query_scale = 1;  // of q.k: 1/sqrt(d); key2's scores have it in them
  SketchKind sketch = SketchKind::kMinMax;
  const float* q = nullptr;       // [R, G, d]
  const RowMode* mode = nullptr;  // [R]
  /// Rows that select: kCorrected before attention (ahead = 0), kSpeculative after it (ahead = 1:
  /// among the candidates of the next step, T + 1).
  RowMode which = RowMode::kCorrected;
  int32_t ahead = 0;
  Pooling pooling = Pooling::kMeanSoftmax;
  int32_t max_candidates = 0;  // most candidates of any sequence
  bool mass = false;           // for cover_pages(): scores also where there is no choice
  /// Benchmarks of synthetic weights: this share of the k selected pages is new, drawn by a hash in
  /// place of the pooled scores, which are computed all the same. In layers that are not budgeted
  /// all are. Negative: off.
  float forced_churn = -1;
  void* scratch = nullptr;          // select_scratch() bytes; one per branch of the graph
  Move* moves = nullptr;            // [R][k] out: what must be brought in, in order of page
  int32_t* move_count = nullptr;    // [R] out; 0 for rows that do not take part
  RowCounters* counters = nullptr;  // of this layer: [sequences][M]
  /// Corrections under way, to which correct_pages() adds its own while they last. May be null.
  int32_t* corrections = nullptr;
};
/// `common_pages`: with SelectParams::mass those of sink and window, PageMap::sink + ring().
size_t select_scratch(const KvGeometry& kv, int32_t n, int32_t max_candidates,
                      int32_t common_pages = 0);

/// Scores of the candidates; reads sketches and q, writes scratch only. minmax: the bound of q.k,
/// without a scale. key2: ln sum exp(query_scale * q.k) over the page's tokens, with the whole
/// weights of Backend::score_key2_pages().
void score_pages(const SelectParams& params, cudaStream_t stream);

/// Pools the scores, takes the k best pages (of equals the lower; NaN is the smallest; all of them
/// where there are no more than k), and takes the selection as done in SequenceLayer: selected
/// (ascending), page table, last use. Victims as PageTable::plan() chooses them: empty slots first,
/// then the least recently used slot whose page is not selected; of equals the lower slot. In a
/// layer that is not budgeted nothing moves.
void choose_pages(const SelectParams& params, cudaStream_t stream);

/// For cover_pages(), beside score_pages(): exact attention mass of the pages of sink and window,
/// from their keys in the fast tier, to the scratch.
void score_common_pages(const SelectParams& params, cudaStream_t stream);

/// Coverage-guided correction (algorithm.md, section 6), for rows that are kCorrected; `select` has
/// `mass` and mean_softmax, which is a page's attention mass then.
struct CoverParams {
  SelectParams select;
  RowMode* mode = nullptr;  // select.mode, to be written
  double epsilon = 0;
};
/// Before attention, after score_pages() and score_common_pages(): selects the k candidates of
/// highest mass, to SequenceLayer::chosen; makes resident those that are, and the heaviest missing
/// ones until the others weigh less than epsilon; gives attention all of this selection and of the
/// last one that is resident then. Moves are the pages to wait for; a row that waits for none
/// becomes kSpeculative.
void cover_pages(const CoverParams& params, cudaStream_t stream);
/// After attention, for rows of both modes: makes resident what of `chosen` is not yet. Moves are
/// these pages. Reads no scratch.
void cover_rest(const SelectParams& params, cudaStream_t stream);

/// Sketches complete pages [first, first + count) of all heads, read from the fast tier (layers
/// that hold everything) or the slow tier. minmax: hi = max, lo = min over the page's keys, per
/// channel; key2: the bytes that Backend::build_key2_sketch() writes.
struct SketchPagesParams {
  KvGeometry kv;
  SequenceLayer layer;
  int32_t first = 0;
  int32_t count = 0;
  /// If given, read in place of a tier: the layer's keys by token, [tokens][M][key_stride].
  const void* keys = nullptr;
  int32_t key_stride = 0;
};
void sketch_pages(const SketchPagesParams& params, cudaStream_t stream);

}  // namespace freekv::cuda
