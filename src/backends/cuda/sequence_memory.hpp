// The KV of one sequence on a GPU: its fast tier, sketches and tables in one piece of device
// memory, its slow tier in one piece of pinned host memory.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backends/cuda/decoder.hpp"
#include "backends/cuda/pinned_pool.hpp"

namespace freekv::cuda {

/// The pages that all heads attend to at `tokens` tokens, and their slots, counted as in Move:
/// everything while it fits, later sink and window.
std::vector<Move> common_pages(const PageMap& map, int64_t tokens);

class SequenceMemory {
 public:
  /// `slow` outlives it.
  SequenceMemory(const DecoderShape& shape, const RetrievalRule& rule, const PageMap& map,
                 int64_t context, int threads, PinnedPool& slow);
  ~SequenceMemory() { pool_.give(std::move(host_)); }
  SequenceMemory(const SequenceMemory&) = delete;
  SequenceMemory& operator=(const SequenceMemory&) = delete;

  static Decoder::Footprint footprint(const DecoderShape& shape, const RetrievalRule& rule,
                                      const PageMap& map, int64_t context);

  std::span<const SequenceLayer> layers() const { return layers_; }
  int64_t context() const { return context_; }
  int64_t tokens() const { return tokens_; }
  void grow() { ++tokens_; }

  /// Decoder::begin(), or begin_placed(); `table` is where layers() stand on the device. Returns
  /// when done.
  void begin(int64_t tokens, bool placed, const SequenceLayer* table, cudaStream_t stream);

 private:
  void reset_tables(int64_t tokens, cudaStream_t stream);
  void copy_slots(const SequenceLayer& layer, std::span<const Move> moves,
                  cudaStream_t stream) const;
  void load_common_pages(int64_t tokens, const SequenceLayer* table, cudaStream_t stream);

  DecoderShape shape_;
  PageMap map_;
  int64_t context_ = 0;
  int64_t tokens_ = 0;
  DeviceBuffer device_;
  PinnedPool& pool_;
  PinnedBuffer host_;
  std::vector<SequenceLayer> layers_;
};

}  // namespace freekv::cuda
