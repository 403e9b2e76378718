// Many arrays in one piece of memory.
#pragma once

#include <cstddef>

namespace freekv::cuda {

/// Hands out parts of a piece of memory, at multiples of 256 bytes. Without memory (null) it hands
/// out null and counts: a first pass gives the size that a second one needs.
class Parts {
 public:
  explicit Parts(std::byte* data) : data_(data) {}
  template <typename T = void>
  T* take(size_t bytes) {
    std::byte* part = data_ ? data_ + used_ : nullptr;
    used_ += (bytes + 255) / 256 * 256;
    return static_cast<T*>(static_cast<void*>(part));
  }
  size_t used() const { return used_; }

 private:
  std::byte* data_;
  size_t used_ = 0;
};

}  // namespace freekv::cuda
