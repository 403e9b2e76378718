#include "device/buffer.hpp"

#include <gtest/gtest.h>

#include "freekv/error.hpp"

namespace freekv {
namespace {

TEST(Buffer, IsZeroedAlignedAndMovable) {
  for (size_t bytes :
       {size_t{1}, size_t{4095}, size_t{4097}, size_t{3} << 20, (size_t{2} << 20) + 1}) {
    Buffer buffer(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    EXPECT_EQ(buffer.data()[0], std::byte{0});
    buffer.data()[bytes - 1] = std::byte{7};
    Buffer moved = std::move(buffer);
    EXPECT_EQ(moved.data()[bytes - 1], std::byte{7});
    EXPECT_EQ(moved.bytes(), bytes);
    buffer = Buffer(8);
    EXPECT_EQ(buffer.bytes(), 8u);
  }
}

TEST(Buffer, ImpossibleSizeThrows) {
  try {
    Buffer buffer(size_t{1} << 62);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
  }
  EXPECT_THROW(Buffer(~size_t{0}), Error);
}

TEST(Buffer, DiscardLeavesZeros) {
  Buffer buffer(100000);
  buffer.as<uint8_t>()[99999] = 7;
  buffer.discard();
  EXPECT_EQ(buffer.bytes(), 100000u);
  EXPECT_EQ(buffer.as<uint8_t>()[99999], 0);
  Buffer().discard();
}

}  // namespace
}  // namespace freekv
