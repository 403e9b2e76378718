// The only owner of tensor memory. Views and pools borrow from it.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

namespace freekv {

/// Host memory, zeroed, aligned to 64 bytes (to 2 MiB with huge pages asked for when large).
/// Movable, not copyable. Throws Error(kOutOfMemory) naming the bytes it could not get.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  bool empty() const { return bytes_ == 0; }

  /// Gives the memory back to the system but keeps the addresses; it reads as zero afterwards.
  void discard();

  /// The memory as an array of T; bytes() must hold a whole number of them.
  template <typename T>
  std::span<T> as() {
    return {reinterpret_cast<T*>(data_), bytes_ / sizeof(T)};
  }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace freekv
