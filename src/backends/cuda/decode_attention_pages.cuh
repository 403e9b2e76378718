// Which tokens a CTA of decode attention reads: the pages of its row, cut into tiles of 16 tokens,
// and the tiles of its split.
#pragma once

#include "backends/cuda/decode_attention.hpp"

namespace freekv::cuda::decode {

inline constexpr int kWarps = 4;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kTile = 16;  // tokens of a tile: every page is a whole number of them

/// The pages of a row in their logical order: `front` from page 0 on, `chosen` selected ones, then
/// those from `window` on. All its tiles are full but the last.
struct RowPages {
  bool budgeted = false;
  int32_t front = 0;
  int32_t chosen = 0;
  int32_t window = 0;
  const int32_t* selected = nullptr;
  const int32_t* slot_of_page = nullptr;
  int32_t tiles = 0;
  int32_t last_tokens = 0;  // of the last tile

  __device__ int32_t slot(const PageMap& map, int32_t i) const {
    if (i >= front && i < front + chosen) {
      const int32_t at = selected[i - front];
      return budgeted ? map.sink + slot_of_page[at] : at;
    }
    const int32_t at = i < front ? i : window + (i - front - chosen);
    return budgeted ? map.common_slot(at) : at;
  }
};

/// `tokens`: of the sequence.
__device__ inline RowPages row_pages(const PageMap& map, const SequenceLayer& layer, int64_t tokens,
                                     int head, RowMode mode) {
  // Asked for beside the mode, not after it.
  const int32_t chosen = layer.selected_count != nullptr ? layer.selected_count[head] : 0;
  const int32_t pages = map.pages(tokens);
  RowPages row;
  row.budgeted = layer.budgeted;
  row.front = pages;
  int32_t ending = 0;
  if (mode != RowMode::kDense) {
    row.front = min(map.sink, pages);
    row.chosen = chosen;
    row.window = map.window_begin(tokens);
    ending = max(pages - row.window, 0);
    row.selected = layer.selected + int64_t{head} * map.attended_selected();
    row.slot_of_page = layer.slot_of_page + int64_t{head} * layer.max_pages;
  }
  const int32_t attended = row.front + row.chosen + ending;
  const auto in_last = static_cast<int32_t>(tokens - int64_t{pages - 1} * map.page);
  const int32_t last_tiles = (in_last + kTile - 1) / kTile;
  row.tiles = (attended - 1) * (map.page / kTile) + last_tiles;
  row.last_tokens = in_last - (last_tiles - 1) * kTile;
  return row;
}

/// The part of a row that one CTA attends to: tiles [first, last).
struct Share {
  int32_t used = 1;  // splits of the row that have work; a short row leaves the others none
  int32_t first = 0;
  int32_t last = 0;
};

__device__ inline Share share_of(int32_t tiles, int32_t splits, int32_t split) {
  Share share;
  share.used = max(min(splits, (tiles + kWarps - 1) / kWarps), 1);
  share.first = static_cast<int32_t>(int64_t{tiles} * split / share.used);
  share.last = static_cast<int32_t>(int64_t{tiles} * (split + 1) / share.used);
  return share;
}

}  // namespace freekv::cuda::decode
