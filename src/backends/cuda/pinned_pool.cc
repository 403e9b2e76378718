#include "backends/cuda/pinned_pool.hpp"

#include <algorithm>
#include <utility>

#include "device/host_memory.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

size_t bytes_of(const std::vector<PinnedBuffer>& buffers) {
  size_t bytes = 0;
  for (const PinnedBuffer& buffer : buffers) bytes += buffer.bytes();
  return bytes;
}

}  // namespace

PinnedPool::Buffers::iterator PinnedPool::find(size_t bytes) {
  auto best = buffers_.end();
  for (auto at = buffers_.begin(); at != buffers_.end(); ++at) {
    const bool fits = at->bytes() >= bytes && at->bytes() / 2 <= bytes;
    if (fits && (best == buffers_.end() || at->bytes() < best->bytes())) best = at;
  }
  return best;
}

void PinnedPool::check(size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (find(bytes) != buffers_.end()) return;
  try {
    check_host_memory(bytes, host_memory());
  } catch (const Error&) {
    if (buffers_.empty()) throw;
    buffers_.clear();  // what is kept for later is wanted now
    check_host_memory(bytes, host_memory());
  }
}

PinnedBuffer PinnedPool::take(size_t bytes, int threads) {
  if (bytes == 0) return {};
  check(bytes);
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = find(bytes); found != buffers_.end()) {
      PinnedBuffer buffer = std::move(*found);
      buffers_.erase(found);
      return buffer;
    }
  }
  return PinnedBuffer(bytes, threads);
}

void PinnedPool::give(PinnedBuffer buffer) noexcept {
  if (buffer.bytes() == 0) return;
  const std::lock_guard lock(mutex_);
  if (bytes_of(buffers_) + buffer.bytes() > limit_) return;
  try {
    buffers_.push_back(std::move(buffer));
  } catch (...) {  // no memory for the list: the buffer goes back to the system
  }
}

size_t PinnedPool::kept() const {
  const std::lock_guard lock(mutex_);
  return bytes_of(buffers_);
}

}  // namespace freekv::cuda
