// What all kernels of the CUDA backend agree on: shapes, where pages stand, and the arrays at fixed
// device addresses that let one captured graph serve every step. Host and device code.
//
// T counts the token of the step under way. A row r = b * M + m is one KV head m of the batch's
// b-th sequence. All offsets are in values, not bytes, unless said.
#pragma once

#include <cstdint>

#include "backends/tensors.hpp"

#ifdef __CUDACC__
#define FREEKV_HOST_DEVICE __host__ __device__
#else
#define FREEKV_HOST_DEVICE
#endif

namespace freekv::cuda {

enum class KvType : uint8_t { kBF16, kF16 };

/// Shape of KV and of the queries that attend to it.
struct KvGeometry {
  int kv_heads = 0;  // M
  int group = 0;     // G = H / M, 1..16
  int head_dim = 0;  // d: 64, 80, 96, 128 or 256
  int page = 0;      // p: 16, 32 or 64
  KvType type = KvType::kBF16;

  FREEKV_HOST_DEVICE int query_heads() const { return kv_heads * group; }
  /// Values of K and V of one page of one head: the unit of recall (16 KiB at p=32, d=128).
  FREEKV_HOST_DEVICE int64_t head_page() const { return int64_t{2} * page * head_dim; }
  /// Values of a slot: one page, all heads.
  FREEKV_HOST_DEVICE int64_t slot() const { return kv_heads * head_page(); }

  /// Bytes of a head's sketch of one page: [hi|lo][d] in the KV type, or the bytes of
  /// Key2SketchView (backends/tensors.hpp). A multiple of 64.
  FREEKV_HOST_DEVICE int64_t sketch_bytes(SketchKind kind) const {
    const int64_t levels = kind == SketchKind::kKey2 ? int64_t{page} * head_dim / 4 : 0;
    return int64_t{4} * head_dim + levels;
  }

  // The fast tier is token-major (NHD): [slot][K|V][p][M][d].
  FREEKV_HOST_DEVICE int64_t fast_token_stride() const { return int64_t{kv_heads} * head_dim; }
  FREEKV_HOST_DEVICE int64_t fast_key(int32_t at, int token, int head) const {
    return at * slot() + token * fast_token_stride() + int64_t{head} * head_dim;
  }
  FREEKV_HOST_DEVICE int64_t fast_value(int32_t at, int token, int head) const {
    return fast_key(at, token, head) + slot() / 2;
  }
  // The slow tier is head-major (HND): [page][M][K|V][p][d]. Where SequenceLayer::token_major is
  // set it has the fast tier's layout, with fast_key() of a page in place of a slot.
  FREEKV_HOST_DEVICE int64_t slow_head_page(int32_t at, int head) const {
    return at * slot() + head * head_page();
  }
};

/// PageLayout (kvcache/page_layout.hpp) for device code: the same arithmetic, in pages.
struct PageMap {
  int page = 1;          // p
  int64_t budget = 0;    // B, in tokens
  int32_t sink = 0;      // pages always attended at the front
  int32_t window = 1;    // whole pages always attended at the end; an unfinished one comes on top
  int32_t selected = 0;  // k
  int32_t resident = 0;  // slots per head that hold selected pages, at least k
  int32_t beside = 0;    // pages of the last selection attended to beside the k (coverage)

  FREEKV_HOST_DEVICE int32_t pages(int64_t tokens) const {
    return static_cast<int32_t>((tokens + page - 1) / page);
  }
  FREEKV_HOST_DEVICE bool over_budget(int64_t tokens) const { return tokens > budget; }
  FREEKV_HOST_DEVICE int32_t window_begin(int64_t tokens) const {
    const int64_t first = (tokens - int64_t{window} * page) / page;
    return first > sink ? static_cast<int32_t>(first) : sink;
  }
  /// Candidates are the pages [sink, window_begin(T)).
  FREEKV_HOST_DEVICE int32_t candidates(int64_t tokens) const {
    return window_begin(tokens) - sink;
  }
  FREEKV_HOST_DEVICE int32_t ring() const { return window + 1; }
  FREEKV_HOST_DEVICE int32_t budget_slots() const { return sink + resident + ring(); }
  /// Where a page stands in all heads alike: any page while T <= B, later sink and window.
  FREEKV_HOST_DEVICE int32_t common_slot(int32_t at) const {
    const int32_t direct = sink + selected;
    return at < direct ? at : sink + resident + (at - direct) % ring();
  }
  /// Of the pages that one head attends to, most that were selected: the length of its list.
  FREEKV_HOST_DEVICE int32_t attended_selected() const { return selected + beside; }
  /// Most pages one head attends to in a step past the budget.
  FREEKV_HOST_DEVICE int32_t attended() const { return sink + attended_selected() + ring(); }
  /// Pages that all heads attend to past the budget, sink and window, and the i-th of them.
  FREEKV_HOST_DEVICE int32_t common_count(int64_t tokens) const {
    return sink + pages(tokens) - window_begin(tokens);
  }
  FREEKV_HOST_DEVICE int32_t common_page(int64_t tokens, int32_t i) const {
    return i < sink ? i : window_begin(tokens) + (i - sink);
  }
};

/// One layer of one sequence: where its KV, sketches and bookkeeping lie. An array of these stands
/// at a fixed device address; entries change only between steps, when a sequence comes or goes.
struct SequenceLayer {
  /// A layer that holds everything has slot = logical page and neither slow tier nor table; one
  /// that holds a budget has PageMap's slots.
  bool budgeted = false;
  /// Its heads select pages once T > B; otherwise they attend to everything always.
  bool retrieves = false;
  /// The slow tier is laid out as the fast one; for comparisons (HostLayout, decoder.hpp).
  bool token_major = false;
  SketchKind sketch_kind = SketchKind::kMinMax;
  int32_t max_pages = 0;
  void* fast = nullptr;             // [slots][K|V][p][M][d]
  void* slow = nullptr;             // pinned host memory, device address: [max_pages][M][K|V][p][d]
  void* sketch = nullptr;           // [M][max_pages] of KvGeometry::sketch_bytes()
  int32_t* slot_of_page = nullptr;  // [M][max_pages]: slot counted from PageMap::sink on, or -1
  int32_t* page_in_slot = nullptr;  // [M][resident], or -1
  uint32_t* last_use = nullptr;     // [M][resident]: the step's clock at the last use, 0 = never
  uint32_t* clock = nullptr;        // [M]: selections made
  // Logical pages, ascending: what attention reads beside sink and window.
  int32_t* selected = nullptr;        // [M][PageMap::attended_selected()]
  int32_t* selected_count = nullptr;  // [M]
  // Of a rule of coverage: this step's selection, not all of which need be attended to.
  int32_t* chosen = nullptr;        // [M][k]
  int32_t* chosen_count = nullptr;  // [M]
  float* previous_q = nullptr;      // [M][G][d]: q of the last step, after RoPE
  int32_t* started = nullptr;       // [M]: whether previous_q holds one
};

/// What a row does in a step.
enum class RowMode : int32_t {
  kDense = 0,        // attends to everything: T <= B, or the layer does not retrieve
  kSpeculative = 1,  // attends to what was selected with the last query; selects afterwards
  kCorrected = 2,    // its query moved (or there was none): selects and recalls before attention
  // Of a rule of coverage all rows past the budget are kCorrected until cover_pages(), which leaves
  // them so where pages are recalled before attention.
};

/// A page to be brought into a slot of its row, counted as in SequenceLayer::slot_of_page.
struct Move {
  int32_t page = 0;
  int32_t slot = 0;
};

/// The batch of a step, all in device memory at fixed addresses. Graphs are captured per n.
struct Batch {
  int32_t n = 0;                          // sequences
  int32_t layer_count = 0;                // L
  const int32_t* sequence = nullptr;      // [n]: which sequence each is
  const int64_t* tokens = nullptr;        // [sequences]: T - 1, tokens before this step's
  const SequenceLayer* layers = nullptr;  // [sequences][L]

  FREEKV_HOST_DEVICE const SequenceLayer& layer(int b, int at) const {
    return layers[int64_t{sequence[b]} * layer_count + at];
  }
  FREEKV_HOST_DEVICE int64_t length(int b) const { return tokens[sequence[b]] + 1; }
};

/// Counters of one (layer, row), added up on the device; include/freekv/stats.hpp says what each
/// counts. [L][sequences][M], by sequence, not by place in the batch.
struct RowCounters {
  unsigned long long selections = 0;
  unsigned long long pages_selected = 0;
  unsigned long long misses_before = 0;
  unsigned long long misses_after = 0;
  unsigned long long tested = 0;
  unsigned long long drifted = 0;
  double lost_mass = 0;  // of a rule of coverage, the sum over its tests
};

#ifdef __CUDACC__
/// Adds to a counter without waiting for what it was: that comes from memory, and a kernel would
/// end later by as much.
__device__ inline void add_to(unsigned long long& counter, int by) {
  atomicAdd(&counter, static_cast<unsigned long long>(by));
}
#endif

}  // namespace freekv::cuda
