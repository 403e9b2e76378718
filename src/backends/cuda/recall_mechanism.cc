#include "backends/cuda/recall_mechanism.hpp"

#include "backends/cuda/host_recall.hpp"
#include "backends/cuda/recall.hpp"
#include "core/check.hpp"

namespace freekv::cuda {
namespace {

// The kernel takes its list from device memory and is ordered by the stream alone.
class GatherRecall final : public RecallMechanism {
 public:
  explicit GatherRecall(int32_t ctas) : ctas_(ctas) {}

  bool capturable() const override { return true; }
  // Attention waits for these pages: more CTAs, so that they do not share the link evenly with what
  // is still under way for the layer before.
  void bring(const SelectParams& params, cudaStream_t stream) override {
    queue(params, 4 * ctas_, nullptr, stream);
  }
  void bring_ahead(const SelectParams& params, cudaStream_t stream) override {
    queue(params, ctas_, params.corrections, stream);
  }

 private:
  static void queue(const SelectParams& params, int32_t ctas, const int32_t* corrections,
                    cudaStream_t stream) {
    gather({.batch = params.batch,
            .kv = params.kv,
            .map = params.map,
            .layer = params.layer,
            .moves = params.moves,
            .move_count = params.move_count,
            .ctas = ctas,
            .corrections = corrections},
           stream);
  }

  int32_t ctas_;
};

}  // namespace

std::unique_ptr<RecallMechanism> make_recall_mechanism(const DecoderShape& shape,
                                                       const RetrievalRule& rule,
                                                       const PageMap& map, int32_t sequences) {
  const bool token_major = rule.host_layout == HostLayout::kTokenMajor;
  check_argument(!token_major || rule.mechanism == Mechanism::kPerPage,
                 "the slow tier is token-major, the mechanism is {}: only per-page copies rows",
                 rule.mechanism == Mechanism::kGather ? "gather" : "streamed");
  if (rule.mechanism == Mechanism::kGather) {
    return std::make_unique<GatherRecall>(rule.gather_ctas);
  }
  HostRecall::Config config{.kv = shape.kv,
                            .map = map,
                            .layers = shape.layers,
                            .sequences = sequences,
                            .token_major = token_major};
  if (rule.mechanism == Mechanism::kStreamed) {
    check_argument(rule.staging_buffers == 1 || rule.staging_buffers == 2,
                   "staging_buffers is {}, must be 1 or 2", rule.staging_buffers);
    config.buffers = rule.staging_buffers;
    config.staged = true;
  }
  return std::make_unique<HostRecall>(config);
}

}  // namespace freekv::cuda
