// CUDA's side of the device layer: errors, and the owners of memory, streams, events and graphs.
// With backends/cuda the only place that includes CUDA's headers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "freekv/error.hpp"

namespace freekv::cuda {

/// Throws Error(kDevice) with CUDA's name for `status` and what was tried; kOutOfMemory when that
/// is what it says.
void check_cuda(cudaError_t status, const char* what);

/// Why `bytes` of host memory could not be locked: kOutOfMemory, naming the limit on locked memory
/// (SIZE_MAX: none) where that is less, or kDevice where `status` is not about memory.
Error lock_failure(size_t bytes, size_t limit, cudaError_t status);

/// Of the current device.
int multiprocessors();

/// Memory of the current device, zeroed. Movable, not copyable.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// Throws Error(kOutOfMemory) with the bytes asked for and those that are free.
  explicit DeviceBuffer(size_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

/// A device array of `count` T.
template <typename T>
DeviceBuffer device_array(size_t count) {
  return DeviceBuffer(count * sizeof(T));
}

/// Host memory that the device reads and writes in place: locked, in huge pages, touched by several
/// threads at once, since locking 12 GiB on one takes seconds (measured.md, section 1), and on the
/// NUMA node of the current device where there is more than one. Zeroed.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  /// Throws Error(kOutOfMemory) with both byte counts where the system, a container or the limit
  /// on locked memory gives less; for the first two before any memory is taken.
  PinnedBuffer(size_t bytes, int threads);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        device_(std::exchange(other.device_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(device_, other.device_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  std::byte* data() const { return data_; }
  /// The same memory as kernels address it.
  std::byte* device() const { return device_; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::byte* device_ = nullptr;
  size_t bytes_ = 0;
};

/// A stream that waits for no other. priority: 0 is usual, lower runs first.
class Stream {
 public:
  explicit Stream(int priority = 0);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }  // NOLINT(google-explicit-constructor)
  void synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

/// What an event is good for, beside having streams wait for it.
enum class EventUse {
  kOrder,   // a thread that waits for it asks all the time: it goes on within microseconds
  kTiming,  // can be subtracted
  kSleep,   // a thread that waits for it leaves its core to others
};

/// A point in a stream.
class Event {
 public:
  explicit Event(EventUse use = EventUse::kOrder);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }  // NOLINT(google-explicit-constructor)
  void record(cudaStream_t stream);
  /// What is queued on `stream` from here on waits for the last record().
  void hold(cudaStream_t stream) const;
  /// Milliseconds from `start` to this one; both have happened.
  float since(const Event& start) const;

 private:
  cudaEvent_t event_ = nullptr;
};

/// A captured and instantiated graph.
class Graph {
 public:
  Graph() = default;
  ~Graph();
  Graph(Graph&& other) noexcept : exec_(std::exchange(other.exec_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(exec_, other.exec_);
    return *this;
  }
  /// Captures what `record` queues on `stream`, and on streams it forks from it and joins again.
  template <typename Record>
  static Graph capture(cudaStream_t stream, Record&& record) {
    begin_capture(stream);
    try {
      record();
    } catch (...) {
      abandon_capture(stream);
      throw;
    }
    return end_capture(stream);
  }
  explicit operator bool() const { return exec_ != nullptr; }
  void launch(cudaStream_t stream) const;

 private:
  static void begin_capture(cudaStream_t stream);
  static void abandon_capture(cudaStream_t stream) noexcept;
  static Graph end_capture(cudaStream_t stream);

  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace freekv::cuda
