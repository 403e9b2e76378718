#include "kvcache/recall.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "freekv/error.hpp"
#include "kvcache/host_tier.hpp"

namespace freekv {
namespace {

constexpr int kPages = 64;
constexpr int kSlots = 48;

// A slow tier of random bytes and an empty fast tier.
struct Tiers {
  KvShape shape;
  std::unique_ptr<Backend> backend = make_reference_backend();
  HostTier slow;
  Buffer memory;
  KvPool fast;

  explicit Tiers(KvShape s)
      : shape(s),
        slow(*backend, s, kPages),
        memory(s.slot_bytes() * kSlots),
        fast{memory.data(), s, KvLayout::kNHD, kSlots} {
    std::mt19937 random(1);
    const KvPool pool = slow.pool();
    for (size_t i = 0; i < s.slot_bytes() * kPages; ++i) {
      pool.data[i] = static_cast<std::byte>(random());
    }
  }
  bool holds(int head, int32_t page, int32_t slot) const {
    const KvPool from = const_cast<HostTier&>(slow).pool();
    for (int t = 0; t < shape.page; ++t) {
      const size_t at = static_cast<size_t>(t) * from.token_stride();
      const size_t to = static_cast<size_t>(t) * fast.token_stride();
      if (std::memcmp(from.keys(page, head) + at, fast.keys(slot, head) + to,
                      shape.token_bytes()) != 0 ||
          std::memcmp(from.values(page, head) + at, fast.values(slot, head) + to,
                      shape.token_bytes()) != 0) {
        return false;
      }
    }
    return true;
  }
};

std::vector<RecallItem> random_items(int heads, int count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<RecallItem> items;
  for (int i = 0; i < count; ++i) {
    items.push_back({static_cast<int32_t>(random()) & (heads - 1),
                     static_cast<int32_t>(random() % kPages), i % kSlots});
  }
  return items;
}

class Mechanism : public testing::TestWithParam<RecallMechanism> {};

// Counts around the size of a stage, over and over with the same job, as decode does.
TEST_P(Mechanism, BringsEveryPage) {
  Tiers tiers({4, 16, 16, DType::kF16});
  RecallEngine engine;
  engine.prepare(tiers.shape, GetParam());
  RecallJob job(*tiers.backend, tiers.slow, tiers.fast, GetParam(), kSlots);
  ExecutionContext ctx(2);
  for (const int count : {1, 7, 8, 9, 15, 16, 17, 33, 48, 0, 5}) {
    std::memset(tiers.memory.data(), 0, tiers.memory.bytes());
    const auto items = random_items(4, count, static_cast<unsigned>(count));
    for (const RecallItem& item : items) job.add(item);
    engine.submit(job);
    EXPECT_EQ(job.under_way(), count > 0);
    engine.wait(ctx, job);
    EXPECT_FALSE(job.under_way());
    EXPECT_TRUE(job.items().empty());
    for (const RecallItem& item : items) {
      EXPECT_TRUE(tiers.holds(item.head, item.page, item.slot)) << "of " << count;
    }
    EXPECT_EQ(engine.wait(ctx, job), 0u);
  }
}

// Many jobs at once, of tiers of their own, waited for in another order.
TEST_P(Mechanism, KeepsJobsApart) {
  RecallEngine engine;
  std::vector<std::unique_ptr<Tiers>> tiers;
  std::vector<std::unique_ptr<RecallJob>> jobs;
  for (int i = 0; i < 6; ++i) {
    const KvShape shape{2, 8 << (i % 3), 16, DType::kBF16};
    tiers.push_back(std::make_unique<Tiers>(shape));
    engine.prepare(shape, GetParam());
    jobs.push_back(std::make_unique<RecallJob>(*tiers.back()->backend, tiers.back()->slow,
                                               tiers.back()->fast, GetParam(), kSlots));
  }
  for (unsigned round = 0; round < 20; ++round) {
    for (size_t i = 0; i < jobs.size(); ++i) {
      for (const RecallItem& item : random_items(2, 20, round * 7 + static_cast<unsigned>(i))) {
        jobs[i]->add(item);
      }
      engine.submit(*jobs[i]);
    }
    for (const size_t i : {3, 0, 5, 1, 4, 2}) {
      engine.wait(*jobs[i]);
      for (const RecallItem& item : random_items(2, 20, round * 7 + static_cast<unsigned>(i))) {
        ASSERT_TRUE(tiers[i]->holds(item.head, item.page, item.slot));
      }
    }
  }
}

// Holds the recall thread at a job's first item until released.
class Gate final : public RecallHook {
 public:
  void before(std::span<RecallItem>) override {
    ++entered;
    while (!open) std::this_thread::yield();
  }
  std::atomic<int> entered{0};
  std::atomic<bool> open{false};
};

TEST_P(Mechanism, ReturnsWhileTheRecallRuns) {
  Tiers tiers({2, 16, 16, DType::kF16});
  Gate gate;
  RecallEngine engine(&gate);
  engine.prepare(tiers.shape, GetParam());
  RecallJob job(*tiers.backend, tiers.slow, tiers.fast, GetParam(), kSlots);
  const auto items = random_items(2, 20, 3);
  for (const RecallItem& item : items) job.add(item);
  engine.submit(job);
  while (gate.entered == 0) std::this_thread::yield();
  // Under way on its own thread, with nothing moved, while this one is free.
  EXPECT_TRUE(job.under_way());
  EXPECT_FALSE(tiers.holds(items[0].head, items[0].page, items[0].slot));
  gate.open = true;
  EXPECT_GT(engine.wait(job), 0u);
  EXPECT_TRUE(tiers.holds(items[0].head, items[0].page, items[0].slot));
}

// While the recall thread is busy with one job, waiting for a later one runs it here.
TEST_P(Mechanism, RunsAJobThatHasNotBegunWhereItIsWaitedFor) {
  Tiers first({2, 16, 16, DType::kF16});
  Tiers second({2, 16, 16, DType::kF16});
  struct FirstOnly final : RecallHook {
    void before(std::span<RecallItem>) override {
      if (calls++ == 0) {
        while (!open) std::this_thread::yield();
      }
    }
    std::atomic<int> calls{0};
    std::atomic<bool> open{false};
  } hook;
  RecallEngine engine(&hook);
  engine.prepare(first.shape, GetParam());
  RecallJob blocked(*first.backend, first.slow, first.fast, GetParam(), kSlots);
  RecallJob job(*second.backend, second.slow, second.fast, GetParam(), kSlots);
  for (const RecallItem& item : random_items(2, 4, 1)) blocked.add(item);
  const auto items = random_items(2, 30, 2);
  for (const RecallItem& item : items) job.add(item);
  engine.submit(blocked);
  while (hook.calls == 0) std::this_thread::yield();
  engine.submit(job);
  ExecutionContext ctx(2);
  engine.wait(ctx, job);  // would never return if it had to wait for its turn
  for (const RecallItem& item : items) EXPECT_TRUE(second.holds(item.head, item.page, item.slot));
  hook.open = true;
  engine.wait(ctx, blocked);
}

// Fails at one page.
class BadPage final : public SlowTier {
 public:
  BadPage(HostTier& tier, int32_t page) : tier_(tier), page_(page) {}
  KvPool pool() override { return tier_.pool(); }
  void store(int32_t page, int head, const KvPool& from, int32_t slot) override {
    tier_.store(page, head, from, slot);
  }
  void read(int32_t page, int head, std::byte* out) override {
    check(page);
    tier_.read(page, head, out);
  }
  void load(int32_t page, int head, const KvPool& to, int32_t slot) override {
    check(page);
    tier_.load(page, head, to, slot);
  }
  void load_values(int32_t, int, const KvPool&, int32_t) override {}
  void release() override {}

 private:
  void check(int32_t page) const {
    if (page == page_) throw Error(ErrorCode::kIo, "page cannot be read");
  }
  HostTier& tier_;
  int32_t page_;
};

TEST_P(Mechanism, RethrowsFailuresAndGoesOn) {
  Tiers tiers({2, 16, 16, DType::kF16});
  BadPage bad(tiers.slow, 13);
  RecallEngine engine;
  engine.prepare(tiers.shape, GetParam());
  RecallJob job(*tiers.backend, bad, tiers.fast, GetParam(), kSlots);
  for (const int position : {0, 7, 8, 20, 39}) {
    for (int i = 0; i < 40; ++i) job.add({0, i == position ? 13 : 14, i});
    engine.submit(job);
    try {
      engine.wait(job);
      FAIL() << "a failed recall passed for a good one";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
    }
    EXPECT_FALSE(job.under_way());
    job.clear();
    for (int i = 0; i < 40; ++i) job.add({1, 15, i});
    engine.submit(job);
    engine.wait(job);
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(tiers.holds(1, 15, i));
  }
}

TEST_P(Mechanism, FinishesQueuedJobsWhenTheEngineEnds) {
  Tiers tiers({2, 16, 16, DType::kF16});
  RecallJob job(*tiers.backend, tiers.slow, tiers.fast, GetParam(), kSlots);
  const auto items = random_items(2, 40, 5);
  {
    RecallEngine engine;
    engine.prepare(tiers.shape, GetParam());
    for (const RecallItem& item : items) job.add(item);
    engine.submit(job);
  }
  for (const RecallItem& item : items) EXPECT_TRUE(tiers.holds(item.head, item.page, item.slot));
}

TEST_P(Mechanism, RefusesMisuse) {
  Tiers tiers({2, 16, 16, DType::kF16});
  Gate gate;
  RecallEngine engine(&gate);
  engine.prepare(tiers.shape, GetParam());
  RecallJob job(*tiers.backend, tiers.slow, tiers.fast, GetParam(), 2);
  job.add({0, 0, 0});
  job.add({0, 1, 1});
  EXPECT_THROW(job.add({0, 2, 2}), Error);
  engine.submit(job);
  EXPECT_THROW(engine.submit(job), Error);
  EXPECT_THROW(job.add({0, 2, 2}), Error);
  gate.open = true;
  engine.wait(job);
}

INSTANTIATE_TEST_SUITE_P(All, Mechanism,
                         testing::Values(RecallMechanism::kGather, RecallMechanism::kStreamed),
                         [](const auto& info) {
                           return info.param == RecallMechanism::kGather ? "gather" : "streamed";
                         });

}  // namespace
}  // namespace freekv
