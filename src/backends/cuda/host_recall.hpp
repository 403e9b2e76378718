// Recall decided by the host, as published systems do it: the move lists of a layer are read back,
// and each page of each head is one copy that the host issues. For comparison with gather().
#pragma once

#include <vector>

#include "backends/cuda/recall_mechanism.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {

/// Staged, copies go to buffers in turn, each on a stream of its own: copy and conversion of one
/// buffer follow one another, and with two buffers the conversion of one runs beside the transfer
/// of the next (FreeKV, section 4.3). Otherwise a page goes straight into its slot, page by page on
/// one stream (ArkVale): the copy engine writes rows at the stride between tokens, so that one 2D
/// copy brings K and V from either layout of the slow tier, and there is nothing to convert.
class HostRecall final : public RecallMechanism {
 public:
  /// Head pages of a staging buffer: 128 KiB at p=32, d=128.
  static constexpr int32_t kStreamedPages = 8;

  struct Config {
    KvGeometry kv;
    PageMap map;
    int32_t layers = 0;
    int32_t sequences = 0;
    bool token_major = false;  // the slow tier
    bool staged = false;
    int32_t buffers = 1;  // staging buffers, or streams of unstaged copies
  };
  explicit HostRecall(const Config& config);
  ~HostRecall() override;

  bool capturable() const override { return false; }
  void set_batch(std::span<const SequenceLayer* const> batch) override;
  void hold(int32_t layer, cudaStream_t stream) override;
  /// Waits until the selection is made.
  void bring(const SelectParams& params, cudaStream_t stream) override;
  void bring_ahead(const SelectParams& params, cudaStream_t stream) override;
  /// Waits until the selection that bring_ahead() followed is made.
  void finish_layer() override;
  void drain() noexcept override;

 private:
  // A stream, and its staging buffer if there is one.
  struct Lane {
    Lane(size_t bytes, int32_t layers);
    Stream stream{-1};
    DeviceBuffer staging;
    Event arrived;                           // what bring() brought
    std::unique_ptr<Event[]> arrived_ahead;  // [layers]: what bring_ahead() brought
  };
  // A layer's lists on the host, and when they are there.
  struct Lists {
    Move* moves = nullptr;      // [R][k]
    int32_t* counts = nullptr;  // [R]
    Event read;
  };

  void read_back(const SelectParams& params, Lists& lists, cudaStream_t stream);
  void copy_all(const SelectParams& params, const Lists& lists);
  void copy_staged(const Lane& lane, const SelectParams& params, int row, const Move* moves,
                   int32_t first, int32_t count);
  void copy_direct(const Lane& lane, const SequenceLayer& layer, int head, const Move& move);

  Config config_;
  PinnedBuffer lists_memory_;
  Lists now_, ahead_;
  bool pending_ = false;  // ahead_ is to be acted on, of pending_params_
  SelectParams pending_params_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  size_t turn_ = 0;
  std::vector<const SequenceLayer*> batch_;
};

}  // namespace freekv::cuda
