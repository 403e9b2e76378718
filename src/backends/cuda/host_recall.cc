#include "backends/cuda/host_recall.hpp"

#include <algorithm>

#include "backends/cuda/head_page.hpp"
#include "backends/cuda/recall.hpp"
#include "core/check.hpp"

namespace freekv::cuda {
namespace {

constexpr size_t kValueBytes = 2;  // bf16 and fp16

std::byte* value_at(void* pool, int64_t values) {
  return static_cast<std::byte*>(pool) + values * static_cast<int64_t>(kValueBytes);
}

void wait_for(const Event& event) {
  check_cuda(cudaEventSynchronize(event), "waiting for a layer's selection");
}

}  // namespace

HostRecall::Lane::Lane(size_t bytes, int32_t layers)
    : staging(bytes), arrived_ahead(std::make_unique<Event[]>(static_cast<size_t>(layers))) {}

HostRecall::HostRecall(const Config& config) : config_(config) {
  check_head_pages(config.kv, config.map);
  const size_t rows =
      static_cast<size_t>(config.sequences) * static_cast<size_t>(config.kv.kv_heads);
  const size_t moves = rows * static_cast<size_t>(config.map.selected);
  lists_memory_ = PinnedBuffer(2 * (moves * sizeof(Move) + rows * sizeof(int32_t)), 1);
  now_.moves = reinterpret_cast<Move*>(lists_memory_.data());
  ahead_.moves = now_.moves + moves;
  now_.counts = reinterpret_cast<int32_t*>(ahead_.moves + moves);
  ahead_.counts = now_.counts + rows;
  const auto page_bytes = static_cast<size_t>(config.kv.head_page()) * kValueBytes;
  const size_t bytes = config.staged ? kStreamedPages * page_bytes : 0;
  for (int32_t i = 0; i < config.buffers; ++i) {
    lanes_.push_back(std::make_unique<Lane>(bytes, config.layers));
  }
  batch_.reserve(static_cast<size_t>(config.sequences));
}

HostRecall::~HostRecall() { drain(); }

void HostRecall::set_batch(std::span<const SequenceLayer* const> batch) {
  batch_.assign(batch.begin(), batch.end());
  pending_ = false;
}

void HostRecall::hold(int32_t layer, cudaStream_t stream) {
  for (const auto& lane : lanes_) lane->arrived_ahead[static_cast<size_t>(layer)].hold(stream);
}

void HostRecall::bring(const SelectParams& params, cudaStream_t stream) {
  read_back(params, now_, stream);
  wait_for(now_.read);
  copy_all(params, now_);
  for (const auto& lane : lanes_) {
    lane->arrived.record(lane->stream);
    lane->arrived.hold(stream);
  }
}

void HostRecall::bring_ahead(const SelectParams& params, cudaStream_t stream) {
  read_back(params, ahead_, stream);
  pending_params_ = params;
  pending_ = true;
}

void HostRecall::finish_layer() {
  if (!std::exchange(pending_, false)) return;
  wait_for(ahead_.read);
  copy_all(pending_params_, ahead_);
  for (const auto& lane : lanes_) {
    lane->arrived_ahead[static_cast<size_t>(pending_params_.layer)].record(lane->stream);
  }
}

void HostRecall::drain() noexcept {
  for (const auto& lane : lanes_) (void)cudaStreamSynchronize(lane->stream);
}

void HostRecall::read_back(const SelectParams& params, Lists& lists, cudaStream_t stream) {
  const auto rows = static_cast<size_t>(params.batch.n) * static_cast<size_t>(params.kv.kv_heads);
  check_cuda(cudaMemcpyAsync(lists.moves, params.moves,
                             rows * static_cast<size_t>(params.map.selected) * sizeof(Move),
                             cudaMemcpyDeviceToHost, stream),
             "reading back a selection");
  check_cuda(cudaMemcpyAsync(lists.counts, params.move_count, rows * sizeof(int32_t),
                             cudaMemcpyDeviceToHost, stream),
             "reading back a selection");
  lists.read.record(stream);
}

// The selection is made, so that attention has read the slots that were given up, and the lanes
// need wait for nothing.
void HostRecall::copy_all(const SelectParams& params, const Lists& lists) {
  const int heads = params.kv.kv_heads;
  const int32_t k = params.map.selected;
  for (int row = 0; row < params.batch.n * heads; ++row) {
    const int32_t count = lists.counts[row];
    check_internal(count >= 0 && count <= k, "{} moves of row {}, must be 0 to {}", count, row, k);
    const Move* moves = lists.moves + int64_t{row} * k;
    const int32_t together = config_.staged ? kStreamedPages : 1;
    for (int32_t first = 0; first < count; first += together) {
      const Lane& lane = *lanes_[turn_++ % lanes_.size()];
      if (config_.staged) {
        copy_staged(lane, params, row, moves, first, std::min(together, count - first));
      } else {
        copy_direct(lane, batch_[static_cast<size_t>(row / heads)][params.layer], row % heads,
                    moves[first]);
      }
    }
  }
}

// One copy per head page: those of a selection lie scattered, whatever the layout.
void HostRecall::copy_staged(const Lane& lane, const SelectParams& params, int row,
                             const Move* moves, int32_t first, int32_t count) {
  const KvGeometry& kv = params.kv;
  const int b = row / kv.kv_heads, head = row % kv.kv_heads;
  const SequenceLayer& layer = batch_[static_cast<size_t>(b)][params.layer];
  const auto bytes = static_cast<size_t>(kv.head_page()) * kValueBytes;
  for (int32_t i = 0; i < count; ++i) {
    check_cuda(cudaMemcpyAsync(lane.staging.data() + static_cast<size_t>(i) * bytes,
                               value_at(layer.slow, kv.slow_head_page(moves[first + i].page, head)),
                               bytes, cudaMemcpyDefault, lane.stream),
               "the recall of a page");
  }
  convert_pages({.kv = kv,
                 .map = params.map,
                 .layer = layer,
                 .head = head,
                 .staging = lane.staging.data(),
                 .moves = params.moves + int64_t{row} * params.map.selected + first,
                 .count = count},
                lane.stream);
}

// One copy per head page: in a slot V's rows follow K's at the stride between tokens
// (head_page.hpp), and so they do in either layout of the slow tier.
void HostRecall::copy_direct(const Lane& lane, const SequenceLayer& layer, int head,
                             const Move& move) {
  const KvGeometry& kv = config_.kv;
  const auto row_bytes = static_cast<size_t>(kv.head_dim) * kValueBytes;
  const auto slot_pitch = static_cast<size_t>(kv.fast_token_stride()) * kValueBytes;
  const int64_t from = config_.token_major ? kv.fast_key(move.page, 0, head)  // a page for a slot
                                           : kv.slow_head_page(move.page, head);
  check_cuda(
      cudaMemcpy2DAsync(value_at(layer.fast, kv.fast_key(config_.map.sink + move.slot, 0, head)),
                        slot_pitch, value_at(layer.slow, from),
                        config_.token_major ? slot_pitch : row_bytes, row_bytes,
                        static_cast<size_t>(2 * kv.page), cudaMemcpyDefault, lane.stream),
      "the recall of a page");
}

}  // namespace freekv::cuda
