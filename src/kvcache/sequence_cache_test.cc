// Limits, sizes and misuse of the cache; what it computes is held by tests/invariants.
#include "kvcache/sequence_cache.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "freekv/error.hpp"

namespace freekv {
namespace {

CacheConfig make_config() {
  CacheConfig config;
  config.layers = 6;
  config.query_heads = 8;
  config.shape = {2, 16, 32, DType::kF16};
  config.max_context = 4096;
  config.tokens = {512, 64, 128};
  return config;
}

CacheNeeds budget_needs() {
  CacheNeeds needs;
  needs.fast = CacheNeeds::Fast::kBudget;
  needs.slow = true;
  needs.sketch = "minmax";
  return needs;
}

void append_zeros(SequenceCache& cache, ExecutionContext& ctx, int64_t tokens) {
  const KvShape& shape = cache.config().shape;
  std::vector<float> zeros(static_cast<size_t>(tokens * shape.heads * shape.head_dim));
  const View<const float, 3> kv(zeros.data(), tokens, shape.heads, shape.head_dim);
  for (int layer = 0; layer < cache.config().layers; ++layer) {
    cache.append_chunk(ctx, layer, kv, kv);
  }
  cache.commit_chunk(tokens);
}

TEST(SequenceCache, CountsBytesByTier) {
  const CacheConfig config = make_config();
  const auto backend = make_reference_backend();
  ExecutionContext ctx(1);
  SequenceCache cache(config, budget_needs(), *backend);
  const size_t slot = config.shape.slot_bytes();
  append_zeros(cache, ctx, 1024);
  cache.finish_prefill(ctx);
  // Sink 2, selected 10, window 4 and the unfinished page, in each of 6 layers.
  EXPECT_EQ(cache.memory().fast_kv_bytes, 6 * 17 * slot);
  EXPECT_EQ(cache.memory().slow_kv_bytes, 6 * 32 * slot);
  EXPECT_EQ(cache.memory().sketch_bytes, size_t{6 * 2 * 32} * 2 * config.shape.token_bytes());
  cache.reset();
  EXPECT_EQ(cache.memory().fast_kv_bytes, 0u);
  EXPECT_EQ(cache.memory().slow_kv_bytes, 0u);

  CacheNeeds dense = budget_needs();
  dense.dense_layers = 2;
  SequenceCache with_dense(config, dense, *backend);
  append_zeros(with_dense, ctx, 1024);
  with_dense.finish_prefill(ctx);
  EXPECT_EQ(with_dense.memory().fast_kv_bytes, (4 * 17 + 2 * 32) * slot);
  EXPECT_EQ(with_dense.memory().slow_kv_bytes, 4 * 32 * slot);

  CacheNeeds dropped = budget_needs();
  dropped.slow = false;
  SequenceCache without_slow(config, dropped, *backend);
  append_zeros(without_slow, ctx, 1024);
  EXPECT_EQ(without_slow.memory().slow_kv_bytes, 6 * 32 * slot);
  without_slow.finish_prefill(ctx);
  EXPECT_EQ(without_slow.memory().slow_kv_bytes, 0u);
}

TEST(SequenceCache, NamesBothByteCountsWhenALimitIsTooSmall) {
  CacheConfig config = make_config();
  const auto backend = make_reference_backend();
  const size_t fast = 6 * 17 * config.shape.slot_bytes();
  const size_t slow = 6 * 128 * config.shape.slot_bytes();
  config.fast_limit_bytes = fast;
  config.slow_limit_bytes = slow;
  EXPECT_NO_THROW(SequenceCache(config, budget_needs(), *backend));
  config.fast_limit_bytes = fast - 1;
  try {
    SequenceCache cache(config, budget_needs(), *backend);
    FAIL() << "the fast tier took more than its limit";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
    EXPECT_EQ(error.message(), "the fast tier needs " + std::to_string(fast) +
                                   " bytes for a context of 4096 tokens, its limit is " +
                                   std::to_string(fast - 1));
  }
  config.fast_limit_bytes = fast;
  config.slow_limit_bytes = slow - 1;
  EXPECT_THROW(SequenceCache(config, budget_needs(), *backend), Error);
  // Everything in the fast tier needs no slow one.
  config.fast_limit_bytes = slow;
  EXPECT_NO_THROW(SequenceCache(config, {}, *backend));
}

TEST(SequenceCache, RefusesWhatDoesNotFit) {
  CacheConfig config = make_config();
  const auto backend = make_reference_backend();
  ExecutionContext ctx(1);
  SequenceCache cache(config, {}, *backend);
  append_zeros(cache, ctx, 4095);
  EXPECT_THROW(append_zeros(cache, ctx, 2), Error);
  append_zeros(cache, ctx, 1);
  EXPECT_THROW(append_zeros(cache, ctx, 1), Error);
  EXPECT_THROW(cache.commit_chunk(1), Error);
  EXPECT_THROW(cache.layer(6), Error);

  config.query_heads = 7;
  EXPECT_THROW(SequenceCache(config, {}, *backend), Error);
  config = make_config();
  config.layers = 0;
  EXPECT_THROW(SequenceCache(config, {}, *backend), Error);
  config = make_config();
  CacheNeeds needs = budget_needs();
  needs.sketch = "none such";
  EXPECT_THROW(SequenceCache(config, needs, *backend), Error);
  needs = budget_needs();
  needs.resident_factor = 0.5;
  EXPECT_THROW(SequenceCache(config, needs, *backend), Error);
}

TEST(SequenceCache, KeepsOneTierWhenTheContextFitsTheBudget) {
  CacheConfig config = make_config();
  config.max_context = 512;
  const auto backend = make_reference_backend();
  ExecutionContext ctx(1);
  SequenceCache cache(config, budget_needs(), *backend);
  append_zeros(cache, ctx, 512);
  cache.finish_prefill(ctx);
  EXPECT_EQ(cache.memory().slow_kv_bytes, 0u);
  EXPECT_EQ(cache.memory().sketch_bytes, 0u);
  EXPECT_EQ(cache.layer(0).slow(), nullptr);
}

TEST(RetrievalStats, AddAndClear) {
  RetrievalStats a;
  a.hits = 2;
  a.wait_ns = 5;
  a.drifted_by_layer = {1, 2};
  RetrievalStats b = a;
  b.drifted_by_layer = {1, 2, 4};
  a.add(b);
  EXPECT_EQ(a.hits, 4u);
  EXPECT_EQ(a.drifted_by_layer, (std::vector<uint64_t>{2, 4, 4}));
  EXPECT_EQ(a.drifted(), 10u);
  a.clear();
  EXPECT_EQ(a.hits, 0u);
  EXPECT_EQ(a.drifted_by_layer, (std::vector<uint64_t>{0, 0, 0}));
}

}  // namespace
}  // namespace freekv
