#include "model/model.hpp"

#include <algorithm>
#include <atomic>

#include "core/check.hpp"
#include "model/rope_override.hpp"

namespace freekv {
namespace {

constexpr size_t kBlockBytes = size_t{4} << 20;

std::optional<Gguf> open_file(const std::string& path) {
  if (is_folder(path)) return std::nullopt;
  return Gguf::open(path).value();
}

std::optional<Checkpoint> open_folder(const std::string& path) {
  if (!is_folder(path)) return std::nullopt;
  return Checkpoint::open(path).value();
}

/// Pieces of at most kBlockBytes, in the order of the files.
std::vector<std::span<const std::byte>> blocks_of(const std::vector<WeightView>& matrices) {
  std::vector<std::span<const std::byte>> blocks;
  for (const WeightView& matrix : matrices) {
    const size_t bytes = matrix.stride() * static_cast<size_t>(matrix.rows);
    for (size_t at = 0; at < bytes; at += kBlockBytes) {
      blocks.emplace_back(matrix.data + at, std::min(kBlockBytes, bytes - at));
    }
  }
  std::sort(blocks.begin(), blocks.end(),
            [](const auto& a, const auto& b) { return a.data() < b.data(); });
  return blocks;
}

/// One read per page brings it in; the sum keeps the compiler from dropping the reads.
void touch(std::span<const std::byte> block, std::atomic<unsigned>& sink) {
  unsigned sum = 0;
  for (size_t i = 0; i < block.size(); i += 4096) sum += std::to_integer<unsigned>(block[i]);
  sink.fetch_add(sum, std::memory_order_relaxed);
}

}  // namespace

Model::Model(const std::string& path, const RopeOptions& rope)
    : gguf_(open_file(path)),
      checkpoint_(open_folder(path)),
      config_(override_rope(gguf_ ? read_config(*gguf_) : read_config(*checkpoint_), rope)),
      weights_(
          read_weights(gguf_ ? *tensor_source(*gguf_) : *tensor_source(*checkpoint_), config_)),
      rope_(config_, weights_.rope_factors) {}

void Model::load(ThreadPool& pool,
                 const std::function<bool(size_t done, size_t total)>& progress) const {
  const auto blocks = blocks_of(weights_.matrices());
  size_t total = 0;
  for (const auto& block : blocks) total += block.size();
  std::atomic<size_t> next{0}, done{0};
  std::atomic<unsigned> sink{0};
  std::atomic<bool> cancelled{false};
  pool.run([&](int worker) {
    while (!cancelled) {
      const size_t i = next.fetch_add(1);
      if (i >= blocks.size()) return;
      touch(blocks[i], sink);
      const size_t bytes = done.fetch_add(blocks[i].size()) + blocks[i].size();
      if (worker == 0 && progress && !progress(bytes, total)) cancelled = true;
    }
  });
  if (cancelled)
    fail(ErrorCode::kCancelled, "stopped loading after {} of {} bytes", done.load(), total);
  if (progress) progress(total, total);
}

}  // namespace freekv
