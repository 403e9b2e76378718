#include "device/cuda/runtime.hpp"

#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "core/check.hpp"
#include "device/host_memory.hpp"

namespace freekv::cuda {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t round_up(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

// CPUs on the NUMA node of the current device, if the system says.
std::vector<int> cpus_near_device() {
  int device = 0;
  char id[32] = {};
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetPCIBusId(id, sizeof(id), device) != cudaSuccess) {
    (void)cudaGetLastError();
    return {};
  }
  std::string name(id);  // in capitals; folders have small letters
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return cpus_near(name);
}

// Writing a byte of every page makes it exist, on the NUMA node of the thread that writes.
void touch(std::byte* data, size_t bytes, int threads) {
  const std::vector<int> cpus = cpus_near_device();
  const size_t pages = bytes / kHugePage;
  const auto parts = std::min<size_t>(static_cast<size_t>(std::max(threads, 1)), pages);
  std::vector<std::thread> workers;
  for (size_t i = 0; i < parts; ++i) {
    workers.emplace_back([=, &cpus] {
      run_on(cpus);
      const size_t begin = pages * i / parts * kHugePage, end = pages * (i + 1) / parts * kHugePage;
      for (size_t at = begin; at < end; at += 4096) data[at] = std::byte{0};
    });
  }
  for (std::thread& worker : workers) worker.join();
}

// After these every call fails until the process ends.
bool is_lost(cudaError_t status) {
  switch (status) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
      return true;
    default:
      return false;
  }
}

size_t locked_limit() {
  rlimit limit{};
  const bool limited = getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return limited ? static_cast<size_t>(limit.rlim_cur) : SIZE_MAX;
}

}  // namespace

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  fail(status == cudaErrorMemoryAllocation ? ErrorCode::kOutOfMemory : ErrorCode::kDevice,
       "{}: {} ({}){}", what, cudaGetErrorString(status), cudaGetErrorName(status),
       is_lost(status) ? "; the GPU is lost to this process" : "");
}

Error lock_failure(size_t bytes, size_t limit, cudaError_t status) {
  if (status != cudaErrorMemoryAllocation && status != cudaErrorOperatingSystem) {
    return Error(ErrorCode::kDevice,
                 fmt::format("{} bytes of host memory cannot be locked: {} ({})", bytes,
                             cudaGetErrorString(status), cudaGetErrorName(status)));
  }
  if (limit < bytes) {
    return Error(ErrorCode::kOutOfMemory,
                 fmt::format("{} bytes of host memory must be locked, the limit on locked memory "
                             "(ulimit -l) is {}",
                             bytes, limit));
  }
  return Error(ErrorCode::kOutOfMemory, fmt::format("{} bytes of host memory cannot be locked: {}",
                                                    bytes, cudaGetErrorString(status)));
}

int multiprocessors() {
  int device = 0, count = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
             "cudaDeviceGetAttribute");
  return count;
}

DeviceBuffer::DeviceBuffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* data = nullptr;
  if (const cudaError_t status = cudaMalloc(&data, bytes); status != cudaSuccess) {
    bytes_ = 0;
    (void)cudaGetLastError();  // a failed allocation leaves the device usable
    size_t free = 0, total = 0;
    if (status == cudaErrorMemoryAllocation && cudaMemGetInfo(&free, &total) == cudaSuccess) {
      fail(ErrorCode::kOutOfMemory, "{} bytes of device memory are needed, {} of {} are free",
           bytes, free, total);
    }
    check_cuda(status, "cudaMalloc");
  }
  data_ = static_cast<std::byte*>(data);
  // In the default stream, which no stream of ours waits for.
  cudaError_t status = cudaMemset(data_, 0, bytes);
  if (status == cudaSuccess) status = cudaStreamSynchronize(cudaStreamLegacy);
  if (status != cudaSuccess) {
    (void)cudaFree(std::exchange(data_, nullptr));
    check_cuda(status, "zeroing device memory");
  }
}

DeviceBuffer::~DeviceBuffer() {
  if (data_) (void)cudaFree(data_);
}

PinnedBuffer::PinnedBuffer(size_t bytes, int threads) : bytes_(round_up(bytes)) {
  if (bytes == 0) return;
  // Touching more than there is would not fail: the system would kill this process or another.
  check_host_memory(bytes_, host_memory());
  // Aligned by hand, so that all of it can be huge pages.
  void* raw = mmap(nullptr, bytes_ + kHugePage, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) {
    fail(ErrorCode::kOutOfMemory, "{} bytes of host memory are needed: {}", bytes_,
         std::strerror(errno));
  }
  const auto address = reinterpret_cast<uintptr_t>(raw);
  const size_t before = (kHugePage - address % kHugePage) % kHugePage;
  auto* begin = static_cast<std::byte*>(raw);
  data_ = begin + before;
  if (before > 0) munmap(begin, before);
  munmap(data_ + bytes_, kHugePage - before);
  madvise(data_, bytes_, MADV_HUGEPAGE);
  touch(data_, bytes_, threads);
  const cudaError_t status =
      cudaHostRegister(data_, bytes_, cudaHostRegisterMapped | cudaHostRegisterPortable);
  if (status != cudaSuccess) {
    munmap(std::exchange(data_, nullptr), bytes_);
    (void)cudaGetLastError();
    throw lock_failure(bytes_, locked_limit(), status);
  }
  void* device = nullptr;
  const cudaError_t mapped = cudaHostGetDevicePointer(&device, data_, 0);
  if (mapped != cudaSuccess) {
    (void)cudaHostUnregister(data_);
    munmap(std::exchange(data_, nullptr), bytes_);
    check_cuda(mapped, "cudaHostGetDevicePointer");
  }
  device_ = static_cast<std::byte*>(device);
}

PinnedBuffer::~PinnedBuffer() {
  if (!data_) return;
  (void)cudaHostUnregister(data_);
  munmap(data_, bytes_);
}

Stream::Stream(int priority) {
  check_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, priority),
             "cudaStreamCreateWithPriority");
}

Stream::~Stream() {
  if (stream_) (void)cudaStreamDestroy(stream_);
}

void Stream::synchronize() const {
  check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

Event::Event(EventUse use) {
  unsigned flags = use == EventUse::kTiming ? cudaEventDefault : cudaEventDisableTiming;
  if (use == EventUse::kSleep) flags |= cudaEventBlockingSync;
  check_cuda(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreateWithFlags");
}

Event::~Event() {
  if (event_) (void)cudaEventDestroy(event_);
}

void Event::record(cudaStream_t stream) {
  check_cuda(cudaEventRecord(event_, stream), "cudaEventRecord");
}

void Event::hold(cudaStream_t stream) const {
  check_cuda(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
}

float Event::since(const Event& start) const {
  float ms = 0;
  check_cuda(cudaEventElapsedTime(&ms, start.event_, event_), "cudaEventElapsedTime");
  return ms;
}

Graph::~Graph() {
  if (exec_) (void)cudaGraphExecDestroy(exec_);
}

void Graph::begin_capture(cudaStream_t stream) {
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
}

void Graph::abandon_capture(cudaStream_t stream) noexcept {
  cudaGraph_t graph = nullptr;
  (void)cudaStreamEndCapture(stream, &graph);
  if (graph) (void)cudaGraphDestroy(graph);
  (void)cudaGetLastError();
}

Graph Graph::end_capture(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  Graph result;
  const cudaError_t status = cudaGraphInstantiate(&result.exec_, graph, 0);
  (void)cudaGraphDestroy(graph);
  check_cuda(status, "cudaGraphInstantiate");
  return result;
}

void Graph::launch(cudaStream_t stream) const {
  check_cuda(cudaGraphLaunch(exec_, stream), "cudaGraphLaunch");
}

}  // namespace freekv::cuda
