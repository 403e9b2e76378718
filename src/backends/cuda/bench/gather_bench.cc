#include "backends/cuda/bench/gather_bench.hpp"

#include <cstring>
#include <numeric>
#include <random>

#include "backends/cuda/bench/synthetic_model.hpp"
#include "backends/cuda/bench/timing.hpp"
#include "backends/cuda/recall.hpp"
#include "backends/cuda/synthetic.hpp"
#include "core/check.hpp"

namespace freekv::cuda {
namespace {

constexpr size_t kPoolBytes = size_t{1} << 30;  // so that no cache can help
constexpr int kLists = 8;                       // used in turn

struct Kernel {
  const char* name;
  void (*run)(const GatherParams&, cudaStream_t);
};
constexpr Kernel kKernels[] = {{"gather", gather}, {"gather_loads", gather_loads}};

/// One layer of one sequence with k moves per head.
class Scene {
 public:
  Scene(const KvGeometry& kv, size_t total_bytes, cudaStream_t stream) : kv_(kv), stream_(stream) {
    const auto page_bytes = static_cast<size_t>(2 * kv.head_page());
    const auto heads = static_cast<size_t>(kv.kv_heads);
    const auto k = static_cast<int32_t>(total_bytes / page_bytes / heads);
    map_ = {.page = kv.page, .selected = k, .resident = k};
    pages_ = static_cast<int32_t>(kPoolBytes / page_bytes / heads);
    slow_ = PinnedBuffer(kPoolBytes, 8);
    fast_ = DeviceBuffer(total_bytes);
    fill_random(kv.type, slow_.device(), static_cast<int64_t>(kPoolBytes / 2), 1, 1.0f, stream);
    SequenceLayer layer;
    layer.budgeted = true;
    layer.max_pages = pages_;
    layer.fast = fast_.data();
    layer.slow = slow_.device();
    layer_ = upload(std::vector<SequenceLayer>{layer});
    sequence_ = device_array<int32_t>(1);
    counts_ = upload(std::vector<int32_t>(heads, k));
    std::mt19937 random(1);
    for (int i = 0; i < kLists; ++i) {
      moves_.push_back(draw(random));
      lists_.push_back(upload(moves_.back()));
    }
  }

  size_t bytes() const { return fast_.bytes(); }
  void run(const Kernel& kernel, int list, int ctas) const {
    kernel.run({.batch = {.n = 1,
                          .layer_count = 1,
                          .sequence = sequence_.as<int32_t>(),
                          .tokens = nullptr,
                          .layers = layer_.as<SequenceLayer>()},
                .kv = kv_,
                .map = map_,
                .layer = 0,
                .moves = lists_[static_cast<size_t>(list)].as<Move>(),
                .move_count = counts_.as<int32_t>(),
                .ctas = ctas},
               stream_);
  }

  /// Before anything is timed.
  void check(const Kernel& kernel) const {
    run(kernel, 0, 8);
    std::vector<uint16_t> fast(fast_.bytes() / 2);
    check_cuda(
        cudaMemcpyAsync(fast.data(), fast_.data(), fast_.bytes(), cudaMemcpyDeviceToHost, stream_),
        "the gathered pages");
    check_cuda(cudaStreamSynchronize(stream_), "the gathered pages");
    const auto* slow = reinterpret_cast<const uint16_t*>(slow_.data());
    const auto row_bytes = static_cast<size_t>(2 * kv_.head_dim);
    for (int head = 0; head < kv_.kv_heads; ++head) {
      for (int32_t i = 0; i < map_.selected; ++i) {
        const Move& move = moves_[0][static_cast<size_t>(head * map_.selected + i)];
        const uint16_t* from = slow + kv_.slow_head_page(move.page, head);
        for (int t = 0; t < 2 * kv_.page; ++t) {  // V's rows follow K's in both layouts
          const uint16_t* to = fast.data() + kv_.fast_key(move.slot, t, head);
          check_internal(std::memcmp(from + t * kv_.head_dim, to, row_bytes) == 0,
                         "{}: row {} of page {}, head {} is wrong: nothing is timed", kernel.name,
                         t, move.page, head);
        }
      }
    }
  }

 private:
  template <typename T>
  DeviceBuffer upload(const std::vector<T>& values) const {
    DeviceBuffer result = device_array<T>(values.size());
    check_cuda(cudaMemcpyAsync(result.data(), values.data(), result.bytes(), cudaMemcpyHostToDevice,
                               stream_),
               "a list");
    check_cuda(cudaStreamSynchronize(stream_), "a list");
    return result;
  }
  std::vector<Move> draw(std::mt19937& random) const {
    std::vector<Move> moves;
    std::vector<int32_t> pages(static_cast<size_t>(pages_));
    std::iota(pages.begin(), pages.end(), 0);
    for (int head = 0; head < kv_.kv_heads; ++head) {
      for (int32_t i = 0; i < map_.selected; ++i) {
        const auto at = static_cast<size_t>(i);
        std::swap(pages[at], pages[at + random() % (pages.size() - at)]);
        moves.push_back({pages[at], i});
      }
    }
    return moves;
  }

  KvGeometry kv_;
  cudaStream_t stream_;
  PageMap map_;
  int32_t pages_ = 0;
  PinnedBuffer slow_;
  DeviceBuffer fast_, layer_, sequence_, counts_;
  std::vector<std::vector<Move>> moves_;
  std::vector<DeviceBuffer> lists_;
};

}  // namespace

std::vector<GatherRate> time_gather_kernels(const GatherRun& run) {
  const KvGeometry kv = decoder_shape({.query_heads = run.kv.heads, .kv = run.kv}).kv;
  const Stream stream(-1);
  const Scene scene(kv, run.total_bytes, stream);
  std::vector<GatherRate> rates;
  for (const Kernel& kernel : kKernels) {
    scene.check(kernel);
    for (const int ctas : run.ctas) {
      int turn = 0;
      const double ms =
          milliseconds(stream, 4 * kLists, [&] { scene.run(kernel, turn++ % kLists, ctas); });
      rates.push_back({kernel.name, ctas, static_cast<double>(scene.bytes()) / ms * 1e-6});
    }
  }
  return rates;
}

}  // namespace freekv::cuda
