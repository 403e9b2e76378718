// How a batch of decode attention is cut into work: rows into splits of tokens (flash-decoding).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "backends/cpu/decode_tile.hpp"
#include "backends/kv_checks.hpp"

namespace freekv::cpu {

/// A row is cut by its own length alone, so that its sums do not depend on the batch. Splits of at
/// least kSplitTokens; no more than kMaxSplits, which bounds the memory for partial sums.
inline constexpr int64_t kSplitTokens = 512;
inline constexpr int64_t kMaxSplits = 64;

inline int64_t split_tokens(int64_t tokens) {
  constexpr auto kTile = static_cast<int64_t>(kTileTokens);
  const int64_t even = (tokens + kMaxSplits - 1) / kMaxSplits;
  return std::max(kSplitTokens, (even + kTile - 1) / kTile * kTile);
}

inline int64_t split_count(int64_t tokens) {
  const int64_t each = split_tokens(tokens);
  return (tokens + each - 1) / each;
}

/// Whether row b is row a of the next KV head, beside it in token-major memory. One worker takes
/// such rows together, tile by tile: apart, each would drag the others' keys and values along as
/// the hardware fetches ahead.
inline bool beside(const AttentionRow& a, const AttentionRow& b) {
  return a.pool.layout == KvLayout::kNHD && b.pool.layout == KvLayout::kNHD &&
         a.pool.data == b.pool.data && a.pool.shape == b.pool.shape && a.kv_head + 1 == b.kv_head &&
         a.slots.data() == b.slots.data() && a.slots.size() == b.slots.size() &&
         a.last_tokens == b.last_tokens;
}

/// One split of rows that lie beside each other.
struct Split {
  size_t row = 0;  // the first
  size_t rows = 0;
  int64_t begin = 0;  // tokens of each row
  int64_t end = 0;
  int64_t index = 0;   // in the row
  int64_t count = 0;   // of the row
  size_t partial = 0;  // of the first row's first split; rows of one split use none
  int64_t before = 0;  // tokens of the batch before this split
};

/// Walks the splits of a batch in order; at most `together` rows to a split.
class Splits {
 public:
  Splits(std::span<const AttentionRow> rows, size_t together) : rows_(rows), together_(together) {
    enter();
  }

  bool done() const { return split_.row == rows_.size(); }
  const Split& get() const { return split_; }

  void next() {
    const int64_t tokens = attended_tokens(rows_[split_.row]);
    split_.before += (split_.end - split_.begin) * static_cast<int64_t>(split_.rows);
    if (split_.end < tokens) {
      split_.begin = split_.end;
      split_.end = std::min(tokens, split_.begin + split_tokens(tokens));
      ++split_.index;
      return;
    }
    if (split_.count > 1) split_.partial += static_cast<size_t>(split_.count) * split_.rows;
    split_.row += split_.rows;
    enter();
  }

 private:
  // The first split of the next rows that have any.
  void enter() {
    while (!done() && rows_[split_.row].slots.empty()) ++split_.row;
    if (done()) return;
    const AttentionRow& first = rows_[split_.row];
    split_.rows = 1;
    while (split_.rows < together_ && split_.row + split_.rows < rows_.size() &&
           beside(rows_[split_.row + split_.rows - 1], rows_[split_.row + split_.rows])) {
      ++split_.rows;
    }
    const int64_t tokens = attended_tokens(first);
    split_.begin = 0;
    split_.end = std::min(tokens, split_tokens(tokens));
    split_.index = 0;
    split_.count = split_count(tokens);
  }

  std::span<const AttentionRow> rows_;
  size_t together_;
  Split split_;
};

}  // namespace freekv::cpu
