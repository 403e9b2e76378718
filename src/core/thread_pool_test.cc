#include "core/thread_pool.hpp"

#include <gtest/gtest.h>

#include <stdexcept>

namespace freekv {
namespace {

TEST(ThreadPool, CoversEveryIndexOnceOnGrainBounds) {
  for (int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    for (int64_t n : {0, 1, 2, 5, 31, 32, 33, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
      pool.parallel_for(n, 4, [&](int64_t begin, int64_t end, int) {
        EXPECT_EQ(begin % 4, 0);
        for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
      });
      for (const auto& count : seen) EXPECT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPool, RethrowsAndGoesOn) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.run([](int worker) {
    if (worker == 2) throw std::runtime_error("worker 2");
  }),
               std::runtime_error);
  std::atomic<int> calls{0};
  pool.run([&](int) { ++calls; });
  EXPECT_EQ(calls.load(), 3);
}

TEST(ThreadPool, ManyShortRegions) {
  ThreadPool pool(4);
  std::atomic<int64_t> sum{0};
  for (int i = 0; i < 5000; ++i) pool.run([&](int worker) { sum += worker; });
  EXPECT_EQ(sum.load(), 5000 * 6);
}

TEST(ThreadPool, RejectsNoThreads) { EXPECT_ANY_THROW(ThreadPool pool(0)); }

}  // namespace
}  // namespace freekv
