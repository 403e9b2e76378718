// Further prompts after decode, KV handed from one sequence to another, and failures of recall.
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "driver.hpp"
#include "freekv/error.hpp"
#include "kvcache/host_tier.hpp"
#include "specifications.hpp"

namespace freekv::invariants {
namespace {

class Prompts : public testing::TestWithParam<std::string> {};

// A further prompt sees every token before it, and decode after it starts as after one prompt.
TEST_P(Prompts, MayFollowDecodeSteps) {
  const Scenario setup;
  for (const int64_t first : {40, 200}) {
    Driver driver(setup, GetParam());
    const auto sequence = driver.make_sequence(6);
    driver.prefill(*sequence, first);
    driver.decode(*sequence, 25);
    if (!sequence->cache.keeps_all()) {
      EXPECT_THROW(driver.prefill(*sequence, 60), Error);
      continue;
    }
    sequence->outputs.clear();
    driver.prefill(*sequence, 60);
    driver.decode(*sequence, 30);
    // In one prompt, in chunks that end at the same tokens.
    Driver other(setup, GetParam());
    const auto whole = other.make_sequence(6);
    for (int64_t left = first + 25; left > 0;) {
      const int64_t n = std::min(left, setup.chunk);
      other.prefill(*whole, n);
      left -= n;
    }
    whole->outputs.clear();
    other.prefill(*whole, 60);
    other.decode(*whole, 30);
    EXPECT_EQ(sequence->outputs, whole->outputs) << "first prompt " << first;
  }
}

// Into a cache that keeps everything in place, with pages of another size or the same, in pieces
// that begin and end anywhere.
TEST_P(Prompts, CanBeTakenOver) {
  for (const int page : {16, 24}) {
    Scenario setup;
    setup.dtype = DType::kF32;
    Driver driver(setup, GetParam());
    const auto sequence = driver.make_sequence(8);
    driver.prefill(*sequence, 205);
    setup.page = page;
    Driver dense(setup, "full");
    const auto other = dense.make_sequence(8);
    if (!sequence->cache.keeps_all()) {
      EXPECT_THROW(other->cache.append_from(driver.ctx(), sequence->cache, 1), Error);
      continue;
    }
    const auto take = [&](int64_t count) {
      other->cache.append_from(driver.ctx(), sequence->cache, count);
    };
    take(33);
    take(1);
    take(171);
    driver.decode(*sequence, 22);
    take(15);
    take(7);
    EXPECT_THROW(take(1), Error);
    ASSERT_EQ(other->cache.tokens(), 227);
    std::vector<float> want_k(static_cast<size_t>(setup.kv_heads * setup.dim));
    std::vector<float> want_v(want_k.size());
    const View<float, 2> k(want_k.data(), setup.kv_heads, setup.dim);
    const View<float, 2> v(want_v.data(), setup.kv_heads, setup.dim);
    for (int layer = 0; layer < setup.layers; ++layer) {
      const auto pages = other->cache.prefill_pages(layer);
      for (int64_t t = 0; t < 227; ++t) {
        sequence->inputs.key_value(layer, t, k, v);
        const int32_t slot = pages.slots[static_cast<size_t>(t / page)];
        const size_t at = static_cast<size_t>(t % page) * pages.pool.token_stride();
        for (int h = 0; h < setup.kv_heads; ++h) {
          for (int e = 0; e < setup.dim; ++e) {
            ASSERT_EQ(load_element(setup.dtype, pages.pool.keys(slot, h) + at, e), k[h][e]) << t;
            ASSERT_EQ(load_element(setup.dtype, pages.pool.values(slot, h) + at, e), v[h][e]) << t;
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, Prompts, testing::ValuesIn(main_specifications()),
                         [](const auto& info) { return test_name(info.param); });

// Fails in every way a slow tier can, after a number of reads.
class FailingTier final : public SlowTier {
 public:
  FailingTier(std::unique_ptr<SlowTier> tier, std::atomic<int>* reads_left)
      : tier_(std::move(tier)), reads_left_(reads_left) {}
  KvPool pool() override { return tier_->pool(); }
  void store(int32_t page, int head, const KvPool& from, int32_t slot) override {
    tier_->store(page, head, from, slot);
  }
  void read(int32_t page, int head, std::byte* out) override {
    count();
    tier_->read(page, head, out);
  }
  void load(int32_t page, int head, const KvPool& to, int32_t slot) override {
    count();
    tier_->load(page, head, to, slot);
  }
  void load_values(int32_t page, int head, const KvPool& to, int32_t slot) override {
    count();
    tier_->load_values(page, head, to, slot);
  }
  void release() override { tier_->release(); }

 private:
  void count() {
    if (reads_left_->fetch_sub(1) <= 0) throw Error(ErrorCode::kIo, "the slow tier is gone");
  }
  std::unique_ptr<SlowTier> tier_;
  std::atomic<int>* reads_left_;
};

class Failures : public testing::TestWithParam<std::string> {};

// A failed recall reaches the step that waits for it, never passes for data, and leaves a cache
// that can start again.
TEST_P(Failures, OfRecallReachTheCaller) {
  Scenario setup;
  setup.attend_in_prefill = false;
  const auto expected = run_alone(setup, GetParam(), 9, 200, 20);
  for (const int reads : {0, 3, 17, 40, 75}) {
    std::atomic<int> left{1 << 30};
    CacheServices services;
    services.make_slow = [&](Backend& backend, const KvShape& shape, int32_t pages) {
      return std::make_unique<FailingTier>(std::make_unique<HostTier>(backend, shape, pages),
                                           &left);
    };
    Driver driver(setup, GetParam());
    const auto sequence = driver.make_sequence(9, services);
    driver.prefill(*sequence, 200);
    left = reads;
    bool failed = false;
    try {
      driver.decode(*sequence, 20);
    } catch (const Error& error) {
      failed = true;
      EXPECT_EQ(error.code(), ErrorCode::kIo);
    }
    // What the last step asked for need not have been waited for.
    const CacheConfig config = setup.cache_config();
    const auto recalled = static_cast<int64_t>(sequence->cache.stats().bytes_recalled /
                                               config.shape.head_page_bytes());
    const int64_t in_flight = int64_t{setup.layers} * setup.kv_heads * 4;
    EXPECT_TRUE(failed || recalled <= reads + in_flight) << recalled << " of " << reads;
    // Up to the failure nothing was wrong.
    EXPECT_TRUE(std::equal(sequence->outputs.begin(), sequence->outputs.end(), expected.begin()));
    left = 1 << 30;
    sequence->restart(driver.policy(), 9);
    driver.prefill(*sequence, 200);
    driver.decode(*sequence, 20);
    EXPECT_EQ(sequence->outputs, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, Failures, testing::ValuesIn(all_specifications()),
                         [](const auto& info) { return test_name(info.param); });

}  // namespace
}  // namespace freekv::invariants
