#include "backends/cpu/decode_attention.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>

#include "backends/cpu/decode_tile.hpp"
#include "backends/kv_checks.hpp"

namespace freekv::cpu {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr int64_t kSplitTokens = 512;
// Bounds the memory for partial sums; splits of longer rows grow instead.
constexpr int64_t kMaxSplits = 64;

constexpr size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

int64_t split_tokens(int64_t tokens) {
  const int64_t even = (tokens + kMaxSplits - 1) / kMaxSplits;
  return std::max<int64_t>(kSplitTokens, static_cast<int64_t>(round_up(even, kTileTokens)));
}

int64_t split_count(int64_t tokens) {
  const int64_t each = split_tokens(tokens);
  return (tokens + each - 1) / each;
}

// Floats of the parts of the scratch memory, all multiples of a cache line.
struct Layout {
  size_t padded_dim;
  size_t heads;     // [group][padded_dim]
  size_t lanes;     // [group][kMaxLanes]: at most one block per head
  size_t worker;    // q, sums, max, mass, scores
  size_t partial;   // sums, then max and mass per head
  size_t counters;  // int32 per row

  Layout(size_t rows, size_t group, size_t dim)
      : padded_dim(round_up(dim, kMaxLanes)),
        heads(group * padded_dim),
        lanes(group * kMaxLanes),
        worker(2 * heads + 2 * lanes + kTileRows * 8),
        partial(heads + round_up(2 * group, kMaxLanes)),
        counters(round_up(rows, kMaxLanes)) {}
};

// One split of one row. Walking these in order is all the bookkeeping there is.
struct Split {
  size_t row = 0;
  int64_t begin = 0;  // tokens of the row
  int64_t end = 0;
  int64_t index = 0;   // in the row
  int64_t count = 0;   // of the row
  size_t partial = 0;  // of the row's first split; rows of one split use none
  int64_t before = 0;  // tokens of the batch before this split
};

class Splits {
 public:
  explicit Splits(std::span<const AttentionRow> rows) : rows_(rows) { enter(); }

  bool done() const { return split_.row == rows_.size(); }
  const Split& get() const { return split_; }

  void next() {
    const int64_t tokens = attended_tokens(rows_[split_.row]);
    split_.before += split_.end - split_.begin;
    if (split_.end < tokens) {
      split_.begin = split_.end;
      split_.end = std::min(tokens, split_.begin + split_tokens(tokens));
      ++split_.index;
      return;
    }
    if (split_.count > 1) split_.partial += static_cast<size_t>(split_.count);
    ++split_.row;
    enter();
  }

 private:
  // The first split of the next row that has any.
  void enter() {
    while (!done() && rows_[split_.row].slots.empty()) ++split_.row;
    if (done()) return;
    const int64_t tokens = attended_tokens(rows_[split_.row]);
    split_.begin = 0;
    split_.end = std::min(tokens, split_tokens(tokens));
    split_.index = 0;
    split_.count = split_count(tokens);
  }

  std::span<const AttentionRow> rows_;
  Split split_;
};

struct Batch {
  View<const float, 3> q;
  std::span<const AttentionRow> rows;
  float scale;
  View<float, 3> out;
  Layout layout;
  float* partials;
  int32_t* left;  // splits of each row that are not done
  int64_t tokens;
  int workers;
};

// A worker's share: splits whose middle lies in its part of the batch's tokens.
class Worker {
 public:
  Worker(const Batch& batch, float* memory, int worker)
      : batch_(batch),
        layout_(batch.layout),
        worker_(worker),
        q_(memory),
        sums_(q_ + layout_.heads),
        max_(sums_ + layout_.heads),
        mass_(max_ + layout_.lanes),
        scores_(mass_ + layout_.lanes) {}

  void run() {
    Splits splits(batch_.rows);
    Split current;
    if (!find(splits, current)) return;
    const std::byte* keys[2][kTileRows];
    int64_t at = current.begin;
    size_t tokens = list_keys(current, at, keys[0]);
    start(current, /*new_row=*/true);
    for (int turn = 0;; turn ^= 1) {
      // The next tile is known before this one is computed, so that it is fetched meanwhile.
      Split following = current;
      int64_t following_at = at + static_cast<int64_t>(tokens);
      bool more = true;
      if (following_at == current.end) {
        splits.next();
        more = find(splits, following);
        following_at = following.begin;
      }
      size_t following_tokens = 0;
      if (more) following_tokens = list_keys(following, following_at, keys[turn ^ 1]);
      compute(current, keys[turn], more ? keys[turn ^ 1] : keys[turn], tokens);
      if (at + static_cast<int64_t>(tokens) == current.end) {
        finish(current);
        if (!more) return;
        start(following, following.row != current.row);
      }
      current = following;
      at = following_at;
      tokens = following_tokens;
    }
  }

 private:
  bool find(Splits& splits, Split& found) const {
    for (; !splits.done(); splits.next()) {
      const Split& split = splits.get();
      const int64_t middle = split.before + (split.end - split.begin) / 2;
      const int64_t owner = middle * batch_.workers / batch_.tokens;
      if (owner > worker_) return false;
      if (owner == worker_) {
        found = split;
        return true;
      }
    }
    return false;
  }

  // The keys of up to a tile of tokens from `at`; returns how many.
  size_t list_keys(const Split& split, int64_t at, const std::byte** keys) const {
    const AttentionRow& row = batch_.rows[split.row];
    const int64_t page = row.pool.shape.page;
    const size_t stride = row.pool.token_stride();
    const size_t slot_bytes = row.pool.shape.slot_bytes();
    const std::byte* first = row.pool.keys(0, row.kv_head);
    const size_t tokens = static_cast<size_t>(std::min<int64_t>(kTileTokens, split.end - at));
    auto slot = static_cast<size_t>(at / page);
    int64_t offset = at % page;
    for (size_t t = 0; t < tokens; ++slot, offset = 0) {
      const std::byte* key = first + static_cast<size_t>(row.slots[slot]) * slot_bytes +
                             static_cast<size_t>(offset) * stride;
      const size_t end = std::min(tokens, t + static_cast<size_t>(page - offset));
      for (; t < end; ++t, key += stride) keys[t] = key;
    }
    std::fill(keys + tokens, keys + kTileRows, keys[tokens - 1]);
    return tokens;
  }

  void start(const Split& split, bool new_row) {
    if (new_row) {
      const View<const float, 2> q = batch_.q[static_cast<int64_t>(split.row)];
      const auto dim = static_cast<size_t>(q.shape(1));
      for (int64_t g = 0; g < q.shape(0); ++g) {
        float* row = q_ + static_cast<size_t>(g) * layout_.padded_dim;
        for (size_t e = 0; e < dim; ++e) row[e] = q[g].data()[e] * (batch_.scale * kLog2E);
        std::fill(row + dim, row + layout_.padded_dim, 0.0f);
      }
      const DType dtype = batch_.rows[split.row].pool.shape.dtype;
      kernels_ = &tile_kernels(dtype);
    }
    std::fill_n(sums_, layout_.heads, 0.0f);
    std::fill_n(max_, layout_.lanes, -std::numeric_limits<float>::infinity());
    std::fill_n(mass_, layout_.lanes, 0.0f);
  }

  // Calls body(block, first head, heads) for even blocks no larger than the kernels take.
  template <typename Body>
  void for_head_blocks(Body&& body) const {
    const auto group = static_cast<size_t>(batch_.q.shape(1));
    const size_t blocks = (group + kernels_->max_heads - 1) / kernels_->max_heads;
    for (size_t b = 0; b < blocks; ++b) {
      const size_t first = b * group / blocks;
      body(b, first, (b + 1) * group / blocks - first);
    }
  }

  void compute(const Split& split, const std::byte* const* keys, const std::byte* const* next,
               size_t tokens) {
    const KvPool& pool = batch_.rows[split.row].pool;
    Tile tile{.keys = keys,
              .next = next,
              .tokens = tokens,
              .values_offset = static_cast<size_t>(pool.values(0, 0) - pool.keys(0, 0)),
              .row_bytes = pool.shape.token_bytes(),
              .dim = static_cast<size_t>(pool.shape.head_dim),
              .padded_dim = layout_.padded_dim,
              .prefetch = true};
    for_head_blocks([&](size_t block, size_t first, size_t heads) {
      HeadBlockState state{.max = max_ + block * kMaxLanes,
                           .mass = mass_ + block * kMaxLanes,
                           .sums = sums_ + first * layout_.padded_dim};
      kernels_->by_heads[heads](tile, q_ + first * layout_.padded_dim, scores_, state);
      tile.prefetch = false;
    });
  }

  void finish(const Split& split) {
    const auto group = static_cast<size_t>(batch_.q.shape(1));
    float* partial = split.count == 1
                         ? nullptr
                         : batch_.partials +
                               (split.partial + static_cast<size_t>(split.index)) * layout_.partial;
    for_head_blocks([&](size_t block, size_t first, size_t heads) {
      const size_t stride = std::bit_ceil(heads);
      for (size_t h = 0; h < heads; ++h) {
        float mass = 0;
        for (size_t i = h; i < kernels_->lanes; i += stride) mass += mass_[block * kMaxLanes + i];
        const size_t g = first + h;
        const float* sums = sums_ + g * layout_.padded_dim;
        if (partial == nullptr) {
          float* out = head_out(split.row, g);
          const float scale = 1 / mass;
          for (int64_t e = 0; e < batch_.out.shape(2); ++e) out[e] = sums[e] * scale;
        } else {
          partial[layout_.heads + g] = max_[block * kMaxLanes + h];
          partial[layout_.heads + group + g] = mass;
        }
      }
    });
    if (partial == nullptr) return;
    std::copy_n(sums_, layout_.heads, partial);
    // The worker that finishes a row last merges it; the acquire half makes the others' sums seen.
    std::atomic_ref<int32_t> left(batch_.left[split.row]);
    if (left.fetch_sub(1, std::memory_order_acq_rel) == 1) merge(split);
  }

  void merge(const Split& split) {
    const auto group = static_cast<size_t>(batch_.q.shape(1));
    const float* partials = batch_.partials + split.partial * layout_.partial;
    const auto count = static_cast<size_t>(split.count);
    for (size_t g = 0; g < group; ++g) {
      float highest = -std::numeric_limits<float>::infinity();
      for (size_t i = 0; i < count; ++i) {
        highest = std::max(highest, partials[i * layout_.partial + layout_.heads + g]);
      }
      float* out = head_out(split.row, g);
      const auto dim = static_cast<size_t>(batch_.out.shape(2));
      std::fill_n(out, dim, 0.0f);
      float mass = 0;
      for (size_t i = 0; i < count; ++i) {
        const float* partial = partials + i * layout_.partial;
        const float weight = std::exp2(partial[layout_.heads + g] - highest);
        mass += weight * partial[layout_.heads + group + g];
        const float* sums = partial + g * layout_.padded_dim;
        for (size_t e = 0; e < dim; ++e) out[e] += weight * sums[e];
      }
      const float scale = 1 / mass;
      for (size_t e = 0; e < dim; ++e) out[e] *= scale;
    }
  }

  float* head_out(size_t row, size_t g) const {
    return batch_.out[static_cast<int64_t>(row)][static_cast<int64_t>(g)].data();
  }

  const Batch& batch_;
  const Layout& layout_;
  int64_t worker_;
  float* q_;       // [group][padded_dim], scaled
  float* sums_;    // [group][padded_dim]
  float* max_;     // [block][kMaxLanes]
  float* mass_;    // [block][kMaxLanes]
  float* scores_;  // [kTileRows][8]
  const TileKernels* kernels_ = nullptr;
};

}  // namespace

void DecodeAttentionScratch::reserve(ExecutionContext& ctx, const BackendLimits& limits) {
  check_argument(limits.head_dim % 8 == 0, "head_dim is {}, must be a multiple of 8",
                 limits.head_dim);
  workers = static_cast<size_t>(ctx.threads());
  rows = static_cast<size_t>(limits.max_rows * limits.kv_heads);
  group = limits.kv_heads > 0 ? static_cast<size_t>(limits.heads / limits.kv_heads) : 0;
  dim = static_cast<size_t>(limits.head_dim);
  // The count of splits grows with the length only up to kMaxSplits / 2 splits or more.
  const int64_t splits =
      std::min(kMaxSplits, (limits.max_pages * limits.page + kSplitTokens - 1) / kSplitTokens);
  partials = rows * static_cast<size_t>(splits);
  const Layout layout(rows, group, dim);
  memory = Buffer(sizeof(float) *
                  (layout.counters + workers * layout.worker + partials * layout.partial));
}

void decode_attention(ExecutionContext& ctx, DecodeAttentionScratch& scratch,
                      View<const float, 3> q, std::span<const AttentionRow> rows, float scale,
                      View<float, 3> out) {
  check_decode(q, rows, out);
  const Layout layout(scratch.rows, scratch.group, scratch.dim);
  check_argument(rows.size() <= scratch.rows && ctx.threads() <= static_cast<int>(scratch.workers),
                 "{} rows on {} threads, reserved are {} rows and {} threads", rows.size(),
                 ctx.threads(), scratch.rows, scratch.workers);
  check_argument(q.shape(1) == static_cast<int64_t>(scratch.group) &&
                     q.shape(2) == static_cast<int64_t>(scratch.dim),
                 "q has {} heads of {}, reserved are {} of {}", q.shape(1), q.shape(2),
                 scratch.group, scratch.dim);
  float* memory = scratch.memory.as<float>().data();
  auto* left = reinterpret_cast<int32_t*>(memory);
  float* workers = memory + layout.counters;
  int64_t tokens = 0;
  int64_t splits = 0;
  size_t partials = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const int64_t n = attended_tokens(rows[r]);
    const int64_t count = n > 0 ? split_count(n) : 0;
    tokens += n;
    splits += count;
    if (count > 1) partials += static_cast<size_t>(count);
    left[r] = static_cast<int32_t>(count);
    if (count == 0) std::ranges::fill(out[static_cast<int64_t>(r)].flat(), 0.0f);
  }
  check_argument(partials <= scratch.partials, "the rows need {} splits, reserved are {}", partials,
                 scratch.partials);
  if (tokens == 0) return;
  const Batch batch{.q = q,
                    .rows = rows,
                    .scale = scale,
                    .out = out,
                    .layout = layout,
                    .partials = workers + scratch.workers * layout.worker,
                    .left = left,
                    .tokens = tokens,
                    .workers = static_cast<int>(std::min<int64_t>(ctx.threads(), splits))};
  if (batch.workers == 1) {
    Worker(batch, workers, 0).run();
    return;
  }
  ctx.pool().run([&](int worker) {
    if (worker >= batch.workers) return;
    Worker(batch, workers + static_cast<size_t>(worker) * layout.worker, worker).run();
  });
}

}  // namespace freekv::cpu
