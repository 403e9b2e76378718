#include "backends/cpu/decode_attention.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>

#include "backends/cpu/decode_splits.hpp"
#include "backends/cpu/decode_tile.hpp"
#include "backends/kv_checks.hpp"

namespace freekv::cpu {
namespace {

constexpr float kLog2E = 1.44269504f;

constexpr size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// Floats of the parts of the scratch memory, all multiples of a cache line.
struct Layout {
  size_t padded_dim;
  size_t heads;     // [group][padded_dim]
  size_t lanes;     // [group][kMaxLanes]: at most one block per head
  size_t row;       // q, sums, max, mass
  size_t scores;    // [kTileRows][8]
  size_t worker;    // scores, then a row for every KV head
  size_t partial;   // sums, then max and mass per head
  size_t counters;  // int32 per row

  explicit Layout(const DecodeAttentionScratch& scratch)
      : padded_dim(round_up(scratch.dim, kMaxLanes)),
        heads(scratch.group * padded_dim),
        lanes(scratch.group * kMaxLanes),
        row(2 * heads + 2 * lanes),
        scores(kTileRows * 8),
        worker(scores + scratch.kv_heads * row),
        partial(heads + round_up(2 * scratch.group, kMaxLanes)),
        counters(round_up(scratch.rows, kMaxLanes)) {}
};

struct Batch {
  View<const float, 3> q;
  std::span<const AttentionRow> rows;
  float scale;
  View<float, 3> out;
  View<float, 2> log_mass;  // or nothing
  Layout layout;
  float* partials;
  int32_t* left;  // splits of each row that are not done
  int64_t tokens;
  size_t together;  // rows of a split
  int workers;
};

// The running softmax of one row in a worker.
struct RowState {
  float* q;     // [group][padded_dim], scaled
  float* sums;  // [group][padded_dim]
  float* max;   // [block][kMaxLanes]
  float* mass;  // [block][kMaxLanes]
};

// A worker's share: the splits whose middle lies in its part of the batch's tokens, tile by tile.
class Worker {
 public:
  Worker(const Batch& batch, float* memory, int worker)
      : batch_(batch),
        layout_(batch.layout),
        worker_(worker),
        scores_(memory),
        states_(memory + layout_.scores),
        splits_(batch.rows, batch.together) {}

  void run() {
    Place place;
    if (!enter_split(place)) return;
    Keys keys[2];
    list_keys(place, keys[0]);
    size_t prepared = batch_.rows.size();  // the row whose queries are in place
    for (int turn = 0;; turn ^= 1) {
      if (place.at == place.split.begin) {
        start(place.split, prepared != place.split.row);
        prepared = place.split.row;
      }
      // The next tile is known before this one is computed, so that it is fetched meanwhile.
      Place following = place;
      const bool more = advance(following);
      if (more) list_keys(following, keys[turn ^ 1]);
      for (size_t i = 0; i < place.split.rows; ++i) {
        list_fetch(keys[more ? turn ^ 1 : turn], i * keys[turn].tokens);
        compute(place.split, i, keys[turn]);
      }
      if (place.at + static_cast<int64_t>(keys[turn].tokens) == place.split.end) {
        for (size_t i = 0; i < place.split.rows; ++i) finish(place.split, i);
      }
      if (!more) return;
      place = following;
    }
  }

 private:
  struct Place {
    Split split;
    int64_t at = 0;  // first token of the tile
  };
  // Of the first row of a split; the others' lie beside them.
  struct Keys {
    const std::byte* rows[kTileRows];
    size_t tokens;
    size_t together;    // rows of the split
    size_t head_bytes;  // from a row's key to the next row's
  };

  bool advance(Place& place) {
    place.at = std::min<int64_t>(place.split.end, place.at + kTileTokens);
    if (place.at < place.split.end) return true;
    splits_.next();
    return enter_split(place);
  }

  // The first split from here on that is this worker's.
  bool enter_split(Place& place) {
    for (; !splits_.done(); splits_.next()) {
      const Split& split = splits_.get();
      const int64_t tokens = (split.end - split.begin) * static_cast<int64_t>(split.rows);
      const int64_t owner = (split.before + tokens / 2) * batch_.workers / batch_.tokens;
      if (owner > worker_) return false;
      if (owner == worker_) {
        place = {split, split.begin};
        return true;
      }
    }
    return false;
  }

  void list_keys(const Place& place, Keys& keys) const {
    const AttentionRow& row = batch_.rows[place.split.row];
    const int64_t page = row.pool.shape.page;
    const size_t stride = row.pool.token_stride();
    const size_t slot_bytes = row.pool.shape.slot_bytes();
    const std::byte* first = row.pool.keys(0, row.kv_head);
    const size_t tokens =
        static_cast<size_t>(std::min<int64_t>(kTileTokens, place.split.end - place.at));
    auto slot = static_cast<size_t>(place.at / page);
    int64_t offset = place.at % page;
    for (size_t t = 0; t < tokens; ++slot, offset = 0) {
      const std::byte* key = first + static_cast<size_t>(row.slots[slot]) * slot_bytes +
                             static_cast<size_t>(offset) * stride;
      const size_t end = std::min(tokens, t + static_cast<size_t>(page - offset));
      for (; t < end; ++t, key += stride) keys.rows[t] = key;
    }
    std::fill(keys.rows + tokens, keys.rows + kTileRows, keys.rows[tokens - 1]);
    keys.tokens = tokens;
    keys.together = place.split.rows;
    keys.head_bytes = row.pool.shape.token_bytes();
  }

  // The lines of the keys of `next` from the first-th key on, counted in the order in which they
  // lie in memory: what one row's turn fetches.
  void list_fetch(const Keys& next, size_t first) {
    const size_t row_lines = (next.head_bytes + kLineBytes - 1) / kLineBytes;
    size_t t = 0;
    fetch_count_ = 0;
    size_t head = first % next.together;
    for (size_t token = first / next.together; token < next.tokens && t < kTileTokens; ++token) {
      const std::byte* key = next.rows[token] + head * next.head_bytes;
      for (; head < next.together && t < kTileTokens; ++head, ++t, key += next.head_bytes) {
        for (size_t i = 0; i < row_lines; ++i) fetch_[fetch_count_++] = key + i * kLineBytes;
      }
      head = 0;
    }
  }

  RowState state(size_t row) const {
    float* memory = states_ + row * layout_.row;
    return {memory, memory + layout_.heads, memory + 2 * layout_.heads,
            memory + 2 * layout_.heads + layout_.lanes};
  }

  void start(const Split& split, bool new_row) {
    kernels_ = &tile_kernels(batch_.rows[split.row].pool.shape.dtype);
    for (size_t i = 0; i < split.rows; ++i) {
      const RowState state = this->state(i);
      if (new_row) scale_queries(batch_.q[static_cast<int64_t>(split.row + i)], state.q);
      std::fill_n(state.sums, layout_.heads, 0.0f);
      std::fill_n(state.max, layout_.lanes, -std::numeric_limits<float>::infinity());
      std::fill_n(state.mass, layout_.lanes, 0.0f);
    }
  }

  void scale_queries(View<const float, 2> q, float* scaled) const {
    const auto dim = static_cast<size_t>(q.shape(1));
    const float factor = batch_.scale * kLog2E;
    for (int64_t g = 0; g < q.shape(0); ++g, scaled += layout_.padded_dim) {
      const float* from = q[g].data();
      for (size_t e = 0; e < dim; ++e) scaled[e] = from[e] * factor;
      std::fill(scaled + dim, scaled + layout_.padded_dim, 0.0f);
    }
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

  void compute(const Split& split, size_t i, const Keys& keys) {
    const KvPool& pool = batch_.rows[split.row].pool;
    const RowState state = this->state(i);
    Tile tile{.keys = keys.rows,
              .fetch = fetch_,
              .fetch_count = fetch_count_,
              .tokens = keys.tokens,
              .key_offset = i * keys.head_bytes,
              .values_offset = static_cast<size_t>(pool.values(0, 0) - pool.keys(0, 0)),
              .dim = static_cast<size_t>(pool.shape.head_dim),
              .padded_dim = layout_.padded_dim};
    for_head_blocks([&](size_t block, size_t first, size_t heads) {
      HeadBlockState block_state{.max = state.max + block * kMaxLanes,
                                 .mass = state.mass + block * kMaxLanes,
                                 .sums = state.sums + first * layout_.padded_dim};
      kernels_->by_heads[heads](tile, state.q + first * layout_.padded_dim, scores_, block_state);
      tile.fetch_count = 0;
    });
  }

  // Calls body(query head, max, mass, sums) for what a row came to.
  template <typename Body>
  void for_results(const RowState& state, Body&& body) const {
    for_head_blocks([&](size_t block, size_t first, size_t heads) {
      const size_t stride = std::bit_ceil(heads);
      for (size_t h = 0; h < heads; ++h) {
        float mass = 0;
        for (size_t i = h; i < kernels_->lanes; i += stride) {
          mass += state.mass[block * kMaxLanes + i];
        }
        body(first + h, state.max[block * kMaxLanes + h], mass,
             state.sums + (first + h) * layout_.padded_dim);
      }
    });
  }

  void finish(const Split& split, size_t i) {
    const size_t row = split.row + i;
    const auto group = static_cast<size_t>(batch_.q.shape(1));
    const auto dim = static_cast<size_t>(batch_.q.shape(2));
    if (split.count == 1) {
      for_results(state(i), [&](size_t g, float max, float mass, const float* sums) {
        float* out = head_out(row, g);
        for (size_t e = 0; e < dim; ++e) out[e] = sums[e] / mass;
        note_mass(row, g, max, mass);
      });
      return;
    }
    const auto count = static_cast<size_t>(split.count);
    float* partials = batch_.partials + (split.partial + i * count) * layout_.partial;
    float* partial = partials + static_cast<size_t>(split.index) * layout_.partial;
    for_results(state(i), [&](size_t g, float max, float mass, const float* sums) {
      std::copy_n(sums, dim, partial + g * layout_.padded_dim);
      partial[layout_.heads + g] = max;
      partial[layout_.heads + group + g] = mass;
    });
    // The worker that finishes a row last merges it; the acquire half makes the others' sums seen.
    std::atomic_ref<int32_t> left(batch_.left[row]);
    if (left.fetch_sub(1, std::memory_order_acq_rel) == 1) merge(partials, count, row);
  }

  void merge(const float* partials, size_t count, size_t row) const {
    const auto group = static_cast<size_t>(batch_.q.shape(1));
    const auto dim = static_cast<size_t>(batch_.q.shape(2));
    for (size_t g = 0; g < group; ++g) {
      float highest = -std::numeric_limits<float>::infinity();
      for (size_t i = 0; i < count; ++i) {
        highest = std::max(highest, partials[i * layout_.partial + layout_.heads + g]);
      }
      float* out = head_out(row, g);
      std::fill_n(out, dim, 0.0f);
      float mass = 0;
      for (size_t i = 0; i < count; ++i) {
        const float* partial = partials + i * layout_.partial;
        const float weight = std::exp2(partial[layout_.heads + g] - highest);
        mass += weight * partial[layout_.heads + group + g];
        const float* sums = partial + g * layout_.padded_dim;
        for (size_t e = 0; e < dim; ++e) out[e] += weight * sums[e];
      }
      for (size_t e = 0; e < dim; ++e) out[e] /= mass;
      note_mass(row, g, highest, mass);
    }
  }

  // Scores are to base two.
  void note_mass(size_t row, size_t g, float max, float mass) const {
    if (!batch_.log_mass.data()) return;
    batch_.log_mass[static_cast<int64_t>(row)][static_cast<int64_t>(g)] =
        (max + std::log2(mass)) / kLog2E;
  }

  float* head_out(size_t row, size_t g) const {
    return batch_.out[static_cast<int64_t>(row)][static_cast<int64_t>(g)].data();
  }

  const Batch& batch_;
  const Layout& layout_;
  int64_t worker_;
  float* scores_;
  float* states_;
  Splits splits_;
  const std::byte* fetch_[kTileTokens * kMaxRowLines];
  size_t fetch_count_ = 0;
  const TileKernels* kernels_ = nullptr;
};

}  // namespace

void DecodeAttentionScratch::reserve(ExecutionContext& ctx, const BackendLimits& limits) {
  check_argument(limits.head_dim % 8 == 0 && limits.head_dim <= 256,
                 "head_dim is {}, must be a multiple of 8 and at most 256", limits.head_dim);
  workers = static_cast<size_t>(ctx.threads());
  kv_heads = static_cast<size_t>(limits.kv_heads);
  rows = static_cast<size_t>(limits.max_rows) * kv_heads;
  group = kv_heads > 0 ? static_cast<size_t>(limits.heads) / kv_heads : 0;
  dim = static_cast<size_t>(limits.head_dim);
  const int64_t splits =
      std::min(kMaxSplits, (limits.max_pages * limits.page + kSplitTokens - 1) / kSplitTokens);
  partials = rows * static_cast<size_t>(splits);
  const Layout layout(*this);
  memory = Buffer(sizeof(float) *
                  (layout.counters + workers * layout.worker + partials * layout.partial));
}

void decode_attention(ExecutionContext& ctx, DecodeAttentionScratch& scratch,
                      View<const float, 3> q, std::span<const AttentionRow> rows, float scale,
                      View<float, 3> out, View<float, 2> log_mass) {
  check_decode(q, rows, out, log_mass);
  check_argument(rows.size() <= scratch.rows && ctx.threads() <= static_cast<int>(scratch.workers),
                 "{} rows on {} threads, reserved are {} rows and {} threads", rows.size(),
                 ctx.threads(), scratch.rows, scratch.workers);
  check_argument(rows.empty() || (q.shape(1) == static_cast<int64_t>(scratch.group) &&
                                  q.shape(2) == static_cast<int64_t>(scratch.dim)),
                 "q has {} heads of {}, reserved are {} of {}", q.shape(1), q.shape(2),
                 scratch.group, scratch.dim);
  const Layout layout(scratch);
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
    if (count > 0) continue;
    std::ranges::fill(out[static_cast<int64_t>(r)].flat(), 0.0f);
    if (log_mass.data()) {
      std::ranges::fill(log_mass[static_cast<int64_t>(r)].flat(),
                        -std::numeric_limits<float>::infinity());
    }
  }
  check_argument(partials <= scratch.partials, "the rows need {} splits, reserved are {}", partials,
                 scratch.partials);
  if (tokens == 0) return;
  // Few splits are shared out better one row at a time; they are small enough for the caches.
  const auto kv_heads = static_cast<int64_t>(scratch.kv_heads);
  const bool together = splits / kv_heads >= 4 * ctx.threads();
  const Batch batch{.q = q,
                    .rows = rows,
                    .scale = scale,
                    .out = out,
                    .log_mass = log_mass,
                    .layout = layout,
                    .partials = workers + scratch.workers * layout.worker,
                    .left = left,
                    .tokens = tokens,
                    .together = together ? scratch.kv_heads : 1,
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
