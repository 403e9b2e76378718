#include "backends/cuda/pinned_pool.hpp"

#include <gtest/gtest.h>

#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

TEST(PinnedPool, GivesTheSameMemoryAgain) {
  PinnedPool pool(64 * kMiB);
  PinnedBuffer first = pool.take(8 * kMiB, 2), second = pool.take(8 * kMiB, 2);
  const std::byte* address = first.data();
  EXPECT_NE(address, second.data());
  pool.give(std::move(first));
  EXPECT_EQ(pool.kept(), 8 * kMiB);
  const PinnedBuffer less = pool.take(6 * kMiB, 2);
  EXPECT_EQ(less.data(), address);
  EXPECT_EQ(pool.kept(), 0u);
}

TEST(PinnedPool, GivesTheSmallestThatIsLargeEnoughAndNotTwiceThat) {
  PinnedPool pool(256 * kMiB);
  PinnedBuffer small = pool.take(8 * kMiB, 2), large = pool.take(14 * kMiB, 2);
  const std::byte *of_small = small.data(), *of_large = large.data();
  pool.give(std::move(large));
  pool.give(std::move(small));
  EXPECT_EQ(pool.take(10 * kMiB, 2).data(), of_large);
  EXPECT_EQ(pool.take(7 * kMiB, 2).data(), of_small);
  EXPECT_EQ(pool.take(0, 2).data(), nullptr);
  EXPECT_EQ(pool.kept(), 0u);
  pool.give(pool.take(8 * kMiB, 2));
  const PinnedBuffer other = pool.take(2 * kMiB, 2);
  EXPECT_EQ(other.bytes(), 2 * kMiB);
  EXPECT_EQ(pool.kept(), 8 * kMiB);
}

TEST(PinnedPool, KeepsNoMoreThanItsLimit) {
  PinnedPool pool(20 * kMiB);
  PinnedBuffer a = pool.take(16 * kMiB, 2), b = pool.take(16 * kMiB, 2);
  pool.give(std::move(a));
  pool.give(std::move(b));
  EXPECT_EQ(pool.kept(), 16 * kMiB);
}

// More than there is: what is kept goes first, and the message is PinnedBuffer's.
TEST(PinnedPool, RefusesWhatTheHostDoesNotHave) {
  PinnedPool pool(64 * kMiB);
  pool.give(pool.take(8 * kMiB, 2));
  EXPECT_NO_THROW(pool.check(6 * kMiB));
  EXPECT_EQ(pool.kept(), 8 * kMiB);
  EXPECT_THROW(pool.take(size_t{1} << 50, 2), Error);
  EXPECT_EQ(pool.kept(), 0u);
  EXPECT_THROW(pool.check(size_t{1} << 50), Error);
}

}  // namespace
}  // namespace freekv::cuda
