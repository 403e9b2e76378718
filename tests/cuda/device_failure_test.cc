// What is left when memory runs out or the device fails: nothing that was taken, and one clear
// line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "backends/cuda/decoder.hpp"
#include "backends/cuda/decoder_cases.hpp"
#include "device/host_memory.hpp"
#include "freekv/error.hpp"
#include "lost_device.hpp"

namespace freekv::cuda {
namespace {

using cases::TinyModel;
using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kContext = 448;

RetrievalRule rule_of(Mechanism mechanism) {
  RetrievalRule rule{
      .budgeted = true, .slow = true, .selects = true, .speculative = true, .tau = 0.1f};
  rule.mechanism = mechanism;
  return rule;
}

size_t free_bytes() {
  size_t free = 0, total = 0;
  check_cuda(cudaDeviceSynchronize(), "wait");
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

template <typename Attempt>
Error error_of(Attempt&& attempt) {
  try {
    attempt();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::kInternal, "nothing was thrown");
}

void decode_some(Decoder& decoder, const TinyModel& model, int32_t sequence) {
  cases::fill_sequence(decoder, model, sequence, 300);
  for (int32_t i = 0; i < 3; ++i) decoder.step({{sequence}}, {{i}});
  EXPECT_EQ(cases::logit_bits(decoder, 1, model.shape().vocab).size(), 256u);
}

TEST(OutOfMemory, HostMemoryIsRefusedBeforeAnythingIsTaken) {
  const TinyModel model;
  const DecoderShape& shape = model.shape();
  const size_t token_bytes = 2 * 2 * static_cast<size_t>(shape.layers * shape.kv.kv_heads) *
                             static_cast<size_t>(shape.kv.head_dim);
  // Twice what is left. Its sketches are a sixteenth of it, which the device need not have.
  const auto context = static_cast<int64_t>(2 * (host_memory().left() / token_bytes));
  Decoder decoder(shape, model.weights(), rule_of(Mechanism::kGather), model.map(),
                  {2, context, 2});
  const int32_t sequence = decoder.open(kContext);
  decode_some(decoder, model, sequence);
  const size_t before = free_bytes();
  const size_t needed = decoder.footprint(context).slow;
  const Error error = error_of([&] { decoder.open(context); });
  EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
  EXPECT_THAT(error.message(), HasSubstr(std::to_string(needed) + " bytes of host memory"));
  EXPECT_EQ(free_bytes(), before);
  decode_some(decoder, model, sequence);
  decode_some(decoder, model, decoder.open(kContext));
}

TEST(OutOfMemory, DeviceMemoryIsGivenBack) {
  const TinyModel model;
  // Holds everything on the device.
  Decoder decoder(model.shape(), model.weights(), {}, model.map(), {2, int64_t{1} << 17, 2});
  const int32_t sequence = decoder.open(kContext);
  decode_some(decoder, model, sequence);
  const Decoder::Footprint large = decoder.footprint(int64_t{1} << 17);  // 200 MB
  const size_t before = free_bytes();
  {
    const DeviceBuffer hog(before - large.fast / 2);
    const Error error = error_of([&] { decoder.open(int64_t{1} << 17); });
    EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
    EXPECT_THAT(error.message(),
                AllOf(HasSubstr("bytes of device memory are needed"), HasSubstr("are free")));
    decode_some(decoder, model, sequence);
  }
  // Under pressure the driver lets go of some memory of its own, too.
  EXPECT_GE(free_bytes(), before);
  decode_some(decoder, model, decoder.open(int64_t{1} << 17));
}

TEST(OutOfMemory, SequencesThatGoLeaveNothing) {
  const TinyModel model;
  const auto once = [&](Mechanism mechanism) {
    Decoder decoder(model.shape(), model.weights(), rule_of(mechanism), model.map(),
                    {1, kContext, 2});
    for (int round = 0; round < 3; ++round) {
      const int32_t sequence = decoder.open(kContext);
      decode_some(decoder, model, sequence);
      decoder.close(sequence);
    }
  };
  for (const Mechanism mechanism :
       {Mechanism::kGather, Mechanism::kStreamed, Mechanism::kPerPage}) {
    once(mechanism);  // loads kernels, which stay
    const size_t before = free_bytes();
    for (int i = 0; i < 3; ++i) once(mechanism);
    EXPECT_EQ(free_bytes(), before);
  }
}

// --- in processes of their own -------------------------------------------------------------------

constexpr unsigned kPatience = 120;  // seconds; then it counts as hanging

// Root, and drivers that pin pages without counting them, are not held to the limit: then the
// memory is there. What must not be is another error, or one without the numbers.
[[noreturn]] void lock_past_the_limit() {
  alarm(kPatience);
  const rlimit limit{1 << 20, 1 << 20};
  if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) std::exit(2);
  bool good = true;
  try {
    const PinnedBuffer buffer(size_t{64} << 20, 2);
    good = buffer.device() != nullptr;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    good = error.code() == ErrorCode::kOutOfMemory &&
           error.message().find("67108864 bytes") != std::string::npos &&
           error.message().find("1048576") != std::string::npos;
  }
  std::exit(good ? 0 : 1);
}

[[noreturn]] void lose_device_between_steps(Mechanism mechanism) {
  alarm(kPatience);
  std::string first, second;
  {
    const TinyModel model;
    Decoder decoder(model.shape(), model.weights(), rule_of(mechanism), model.map(),
                    {1, kContext, 2});
    const int32_t sequence = decoder.open(kContext);
    decode_some(decoder, model, sequence);
    lose_device(decoder.stream());
    const auto message_of = [&] {
      const Error error = error_of([&] {
        decoder.step({{sequence}}, {{1}});
        decoder.counters(sequence);  // waits, where the step only queues
      });
      return error.code() == ErrorCode::kDevice ? error.message() : std::string();
    };
    first = message_of();
    second = message_of();
  }
  std::fprintf(stderr, "%s\n", first.c_str());
  const bool one_line = !first.empty() && first.find('\n') == std::string::npos;
  std::exit(one_line && !second.empty() ? 0 : 1);
}

class DeviceFailure : public testing::Test {
 protected:
  // A process of CUDA cannot be forked: these start the program anew.
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(DeviceFailure, LockedMemoryPastTheLimitIsRefusedWithBothSizes) {
  EXPECT_EXIT(lock_past_the_limit(), testing::ExitedWithCode(0), "");
}

TEST_F(DeviceFailure, ALostDeviceEndsInOneLine) {
  EXPECT_EXIT(lose_device_between_steps(Mechanism::kGather), testing::ExitedWithCode(0),
              "the GPU is lost to this process");
}

TEST_F(DeviceFailure, ALostDeviceEndsAHostThatWaitsForIt) {
  EXPECT_EXIT(lose_device_between_steps(Mechanism::kStreamed), testing::ExitedWithCode(0),
              "the GPU is lost to this process");
}

}  // namespace
}  // namespace freekv::cuda
