#include "device/buffer.hpp"

#include <sys/mman.h>

#include "core/check.hpp"

namespace freekv {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSmallPage = 4096;

}  // namespace

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  // Mapped, not malloc'ed: pages arrive zeroed and only when touched, and leave at once.
  const size_t align = bytes >= kHugePage ? kHugePage : kSmallPage;
  const size_t mapped = bytes + align + kSmallPage;
  if (mapped < bytes) fail(ErrorCode::kOutOfMemory, "cannot allocate {} bytes", bytes);
  void* raw = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) {
    bytes_ = 0;
    fail(ErrorCode::kOutOfMemory, "cannot allocate {} bytes of host memory", bytes);
  }
  auto* begin = static_cast<std::byte*>(raw);
  const auto address = reinterpret_cast<uintptr_t>(raw);
  data_ = begin + ((align - address % align) % align);
  // Give back what alignment left over, so that the mapping is [data, data + size rounded up).
  std::byte* end = data_ + (bytes + kSmallPage - 1) / kSmallPage * kSmallPage;
  if (data_ > begin) munmap(begin, static_cast<size_t>(data_ - begin));
  if (begin + mapped > end) {
    const auto tail = reinterpret_cast<uintptr_t>(begin + mapped);
    const auto tail_end = (tail + kSmallPage - 1) / kSmallPage * kSmallPage;
    munmap(end, tail_end - reinterpret_cast<uintptr_t>(end));
  }
  if (bytes >= kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);
}

Buffer::~Buffer() {
  if (data_) munmap(data_, (bytes_ + kSmallPage - 1) / kSmallPage * kSmallPage);
}

void Buffer::discard() {
  if (data_) madvise(data_, bytes_, MADV_DONTNEED);
}

}  // namespace freekv
