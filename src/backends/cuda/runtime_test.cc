#include "device/cuda/runtime.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

using testing::AllOf;
using testing::HasSubstr;

using Bytes = std::vector<unsigned char>;

Bytes pattern(size_t n) {
  Bytes result(n);
  for (size_t i = 0; i < n; ++i) result[i] = static_cast<unsigned char>(i * 131 + i / 251 + 1);
  return result;
}

Bytes from_device(const DeviceBuffer& buffer) {
  Bytes result(buffer.bytes());
  check_cuda(cudaMemcpy(result.data(), buffer.data(), buffer.bytes(), cudaMemcpyDeviceToHost),
             "download");
  return result;
}

void copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "copy");
}

void set(const DeviceBuffer& buffer, int value, cudaStream_t stream) {
  check_cuda(cudaMemsetAsync(buffer.data(), value, buffer.bytes(), stream), "set");
}

// The error that `make` throws.
template <typename Make>
Error error_of(Make&& make) {
  try {
    make();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::kInternal, "nothing was thrown");
}

TEST(DeviceBuffer, IsZeroed) {
  for (const size_t bytes : {size_t{1}, size_t{4096}, (size_t{1} << 20) + 3}) {
    const Stream stream;
    for (int round = 0; round < 2; ++round) {  // the second may get the memory of the first
      const DeviceBuffer buffer(bytes);
      ASSERT_EQ(buffer.bytes(), bytes);
      EXPECT_EQ(from_device(buffer), Bytes(bytes, 0));
      set(buffer, 0xff, stream);
      stream.synchronize();
    }
  }
}

// Streams of ours wait for no other, so that nothing may still be under way in the default one.
TEST(DeviceBuffer, IsZeroedBeforeAnyStreamWritesToIt) {
  const Stream stream;
  const DeviceBuffer buffer(size_t{2} << 30);
  const DeviceBuffer ones(4096);
  set(ones, 1, stream);
  std::byte* const end = buffer.data() + buffer.bytes() - ones.bytes();
  copy(end, ones.data(), ones.bytes(), stream);
  stream.synchronize();
  check_cuda(cudaDeviceSynchronize(), "wait");
  Bytes result(ones.bytes());
  check_cuda(cudaMemcpy(result.data(), end, result.size(), cudaMemcpyDeviceToHost), "download");
  EXPECT_EQ(result, Bytes(ones.bytes(), 1));
}

TEST(DeviceBuffer, Moves) {
  DeviceBuffer first(100);
  std::byte* const data = first.data();
  DeviceBuffer second(std::move(first));
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.bytes(), 100u);
  DeviceBuffer third;
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.as<int>(), static_cast<void*>(data));
  EXPECT_EQ(DeviceBuffer(0).data(), nullptr);
  EXPECT_EQ(device_array<double>(3).bytes(), 24u);
}

TEST(DeviceBuffer, SaysWhatIsMissingAndLeavesTheDeviceUsable) {
  const Error error = error_of([] { DeviceBuffer buffer(size_t{1} << 50); });
  EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
  EXPECT_THAT(error.message(),
              AllOf(HasSubstr("1125899906842624 bytes of device memory are needed"),
                    HasSubstr("are free")));
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  const DeviceBuffer buffer(1000);
  EXPECT_EQ(from_device(buffer), Bytes(1000, 0));
}

TEST(PinnedBuffer, IsReadAndWrittenByTheDeviceInPlace) {
  for (const int threads : {1, 3, 16}) {
    const size_t bytes = (size_t{5} << 20) + 12;
    const PinnedBuffer host(bytes, threads);
    ASSERT_GE(host.bytes(), bytes);
    ASSERT_NE(host.device(), nullptr);
    const auto* end = host.data() + host.bytes();
    EXPECT_TRUE(std::all_of(static_cast<const std::byte*>(host.data()), end,
                            [](std::byte b) { return b == std::byte{0}; }));

    const Bytes values = pattern(bytes);
    std::memcpy(host.data(), values.data(), bytes);
    const DeviceBuffer device(bytes);
    const Stream stream;
    copy(device.data(), host.device(), bytes, stream);
    stream.synchronize();
    EXPECT_EQ(from_device(device), values);

    std::memset(host.data(), 0, bytes);
    copy(host.device(), device.data(), bytes, stream);
    stream.synchronize();
    EXPECT_EQ(std::memcmp(host.data(), values.data(), bytes), 0);
  }
}

TEST(PinnedBuffer, Moves) {
  PinnedBuffer first(100, 1);
  std::byte* const data = first.data();
  std::byte* const device = first.device();
  PinnedBuffer second(std::move(first));
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.device(), device);
  PinnedBuffer third;
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(PinnedBuffer(0, 1).data(), nullptr);
}

TEST(PinnedBuffer, SaysWhatIsMissing) {
  const Error error = error_of([] { PinnedBuffer buffer(size_t{1} << 50, 4); });
  EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
  EXPECT_THAT(error.message(), HasSubstr("1125899906842624 bytes of host memory"));
  const PinnedBuffer buffer(100, 4);
  EXPECT_NE(buffer.device(), nullptr);
}

TEST(CheckCuda, NamesTheErrorAndWhatWasTried) {
  EXPECT_NO_THROW(check_cuda(cudaSuccess, "nothing"));
  const Error error = error_of([] { check_cuda(cudaErrorInvalidValue, "the attempt"); });
  EXPECT_EQ(error.code(), ErrorCode::kDevice);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("the attempt"), HasSubstr("cudaErrorInvalidValue")));
  EXPECT_EQ(error_of([] { check_cuda(cudaErrorMemoryAllocation, "it"); }).code(),
            ErrorCode::kOutOfMemory);
}

// The second stream copies what the first writes last, after some milliseconds of other writes.
TEST(Event, HoldsAnotherStream) {
  const DeviceBuffer source(size_t{64} << 20), target(source.bytes());
  check_cuda(cudaDeviceSynchronize(), "wait");
  const Stream writer, reader(-1);
  Event written;
  for (int i = 1; i <= 100; ++i) set(source, i, writer);
  written.record(writer);
  written.hold(reader);
  copy(target.data(), source.data(), source.bytes(), reader);
  reader.synchronize();
  EXPECT_EQ(from_device(target), Bytes(target.bytes(), 100));
}

TEST(Event, MeasuresTime) {
  const DeviceBuffer buffer(size_t{64} << 20);
  check_cuda(cudaDeviceSynchronize(), "wait");
  const Stream stream;
  Event start(EventUse::kTiming), end(EventUse::kTiming);
  start.record(stream);
  for (int i = 0; i < 100; ++i) set(buffer, i, stream);
  end.record(stream);
  stream.synchronize();
  EXPECT_GT(end.since(start), 0.1f);  // 6.4 GB
  EXPECT_LT(end.since(start), 10e3f);
}

TEST(Event, IsWaitedForAsleep) {
  const DeviceBuffer buffer(size_t{256} << 20);
  check_cuda(cudaDeviceSynchronize(), "wait");
  const Stream stream;
  Event end(EventUse::kSleep);
  const auto seconds = [](clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  };
  for (int i = 0; i < 500; ++i) set(buffer, i, stream);  // 134 GB
  end.record(stream);
  const double start = seconds(CLOCK_MONOTONIC), worked = seconds(CLOCK_THREAD_CPUTIME_ID);
  check_cuda(cudaEventSynchronize(end), "wait");
  const double waited = seconds(CLOCK_MONOTONIC) - start;
  EXPECT_GT(waited, 5e-3);
  EXPECT_LT(seconds(CLOCK_THREAD_CPUTIME_ID) - worked, waited / 4);
}

TEST(Graph, RepeatsWhatWasCaptured) {
  constexpr size_t kBytes = 10000;
  PinnedBuffer host(kBytes, 1);
  const DeviceBuffer first(kBytes), second(kBytes);
  check_cuda(cudaDeviceSynchronize(), "wait");
  const Stream stream, side;
  Event fork, join;
  Graph graph;
  EXPECT_FALSE(graph);
  graph = Graph::capture(stream, [&] {
    copy(first.data(), host.device(), kBytes, stream);
    fork.record(stream);
    fork.hold(side);
    copy(second.data(), first.data(), kBytes, side);
    join.record(side);
    join.hold(stream);
  });
  ASSERT_TRUE(graph);
  EXPECT_EQ(from_device(second), Bytes(kBytes, 0)) << "a capture runs nothing";
  for (const unsigned char value : {3, 4}) {
    std::memset(host.data(), value, kBytes);
    graph.launch(stream);
    stream.synchronize();
    EXPECT_EQ(from_device(second), Bytes(kBytes, value));
  }
}

TEST(Graph, GivesTheStreamBackWhenRecordingFails) {
  const DeviceBuffer buffer(1000);
  check_cuda(cudaDeviceSynchronize(), "wait");
  const Stream stream;
  EXPECT_THROW(Graph::capture(stream,
                              [&] {
                                set(buffer, 1, stream);
                                throw std::runtime_error("recording failed");
                              }),
               std::runtime_error);
  EXPECT_EQ(from_device(buffer), Bytes(1000, 0));
  set(buffer, 2, stream);
  stream.synchronize();
  EXPECT_EQ(from_device(buffer), Bytes(1000, 2));
}

TEST(LockFailure, NamesTheLimitOnlyWhereItIsTheCause) {
  const Error limited = lock_failure(4096, 1024, cudaErrorMemoryAllocation);
  EXPECT_EQ(limited.code(), ErrorCode::kOutOfMemory);
  EXPECT_THAT(limited.message(), AllOf(HasSubstr("4096 bytes of host memory must be locked"),
                                       HasSubstr("(ulimit -l) is 1024")));
  const Error full = lock_failure(4096, SIZE_MAX, cudaErrorMemoryAllocation);
  EXPECT_EQ(full.code(), ErrorCode::kOutOfMemory);
  EXPECT_THAT(full.message(), HasSubstr("4096 bytes of host memory cannot be locked"));
  const Error none = lock_failure(4096, 1024, cudaErrorInsufficientDriver);
  EXPECT_EQ(none.code(), ErrorCode::kDevice);
  EXPECT_THAT(none.message(), HasSubstr("cudaErrorInsufficientDriver"));
}

}  // namespace
}  // namespace freekv::cuda
