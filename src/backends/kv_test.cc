// Writing and moving KV: bytes equal the scalar reference's, and nothing else is touched.
#include "backends/cpu/kv.hpp"

#include <gtest/gtest.h>

#include "backends/kv_cases.hpp"
#include "backends/op_test.hpp"
#include "backends/reference/kv.hpp"
#include "freekv/error.hpp"

namespace freekv {
namespace {

// A pool of its own whose bytes are all 0xff: NaN in every dtype.
struct Pool {
  Pool(const KvShape& shape, KvLayout layout, int32_t slots)
      : bytes(static_cast<size_t>(slots) * shape.slot_bytes(), std::byte{0xff}),
        pool{bytes.data(), shape, layout, slots} {}
  std::vector<std::byte> bytes;
  KvPool pool;
};

// Values a rounding could get wrong: ties, subnormals and overflow of F16, both zeros.
std::vector<float> hard_values(int64_t n, uint32_t seed) {
  constexpr float kHard[] = {0.0f,        -0.0f,       65504.0f,       65519.9f,
                             65520.0f,    -1e9f,       1e-8f,          2.98e-8f,
                             6.1e-5f,     -6.0e-8f,    1.00048828125f, 1.00146484375f,
                             1.00390625f, 1.01171875f, 3.0e38f,        3.39e38f};
  std::vector<float> values = cases::random_floats(n, seed);
  for (size_t i = 0; i < values.size(); i += 3) values[i] = kHard[i / 3 % std::size(kHard)];
  return values;
}

TEST(AppendKv, WritesTheReferencesBytes) {
  for (const KvShape& shape : cases::kv_shapes()) {
    for (const KvLayout layout : cases::kLayouts) {
      SCOPED_TRACE(cases::shape_name(shape, layout));
      const std::vector<int32_t> slots = {4, 0, 2};
      for (const int first : {0, shape.page - 1}) {
        for (const int64_t tokens :
             {int64_t{0}, int64_t{1}, int64_t{shape.page}, int64_t{3} * shape.page - first}) {
          const int64_t n = tokens * shape.heads * shape.head_dim;
          const std::vector<float> k = hard_values(n, 1);
          const std::vector<float> v = hard_values(n, 2);
          const View<const float, 3> kv(k.data(), tokens, shape.heads, shape.head_dim);
          const View<const float, 3> vv(v.data(), tokens, shape.heads, shape.head_dim);
          ExecutionContext ctx(2);
          Pool expected(shape, layout, 5);
          reference::append_kv(ctx, kv, vv, expected.pool, slots, first);
          for_each_simd_target([&] {
            Pool actual(shape, layout, 5);
            cpu::append_kv(ctx, kv, vv, actual.pool, slots, first);
            EXPECT_TRUE(actual.bytes == expected.bytes);
          });
        }
      }
    }
  }
}

TEST(AppendKv, RefusesWhatDoesNotFit) {
  const KvShape shape{1, 64, 4, DType::kF16};
  Pool pool(shape, KvLayout::kNHD, 2);
  ExecutionContext ctx(1);
  const std::vector<float> k(6 * 64);
  const View<const float, 3> kv(k.data(), 6, 1, 64);
  const std::vector<int32_t> one = {0};
  const std::vector<int32_t> two = {0, 1};
  const std::vector<int32_t> outside = {0, 2};
  for (const auto append : {reference::append_kv, cpu::append_kv}) {
    EXPECT_NO_THROW(append(ctx, kv, kv, pool.pool, two, 2));
    EXPECT_THROW(append(ctx, kv, kv, pool.pool, one, 0), Error);
    EXPECT_THROW(append(ctx, kv, kv, pool.pool, two, 3), Error);
    EXPECT_THROW(append(ctx, kv, kv, pool.pool, outside, 0), Error);
    EXPECT_THROW(append(ctx, kv, kv, pool.pool, two, 4), Error);
  }
}

TEST(CopyHeadPage, EqualsReferenceAndTouchesNothingElse) {
  for (const KvShape& shape : cases::kv_shapes()) {
    const cases::PagedKv source_nhd(shape, KvLayout::kNHD, int64_t{3} * shape.page, 1);
    const cases::PagedKv source_hnd(shape, KvLayout::kHND, int64_t{3} * shape.page, 1);
    for (const cases::PagedKv* source : {&source_nhd, &source_hnd}) {
      for (const KvLayout layout : cases::kLayouts) {
        SCOPED_TRACE(cases::shape_name(shape, layout));
        Pool expected(shape, layout, 3);
        Pool actual(shape, layout, 3);
        for (int head = 0; head < shape.heads; head += 2) {
          reference::copy_head_page(source->pool(), source->slots()[1], expected.pool, 2, head);
          cpu::copy_head_page(source->pool(), source->slots()[1], actual.pool, 2, head);
        }
        EXPECT_TRUE(actual.bytes == expected.bytes);
        // Page 1's last token really arrived.
        const size_t last = static_cast<size_t>(shape.page - 1);
        EXPECT_EQ(0, std::memcmp(actual.pool.values(2, 0) + last * actual.pool.token_stride(),
                                 source->pool().values(source->slots()[1], 0) +
                                     last * source->pool().token_stride(),
                                 shape.token_bytes()));
      }
    }
  }
}

TEST(CopyHeadPage, RoundTripKeepsBytes) {
  for (const KvShape& shape : cases::kv_shapes()) {
    SCOPED_TRACE(cases::shape_name(shape, KvLayout::kNHD));
    const cases::PagedKv source(shape, KvLayout::kNHD, 2 * shape.page, 3);
    const std::span<const int32_t> slots = source.slots();
    Pool slow(shape, KvLayout::kHND, source.pool().slots);
    Pool back(shape, KvLayout::kNHD, source.pool().slots);
    for (int head = 0; head < shape.heads; ++head) {
      for (const int32_t slot : slots) {
        cpu::copy_head_page(source.pool(), slot, slow.pool, slot, head);
        cpu::copy_head_page(slow.pool, slot, back.pool, slot, head);
      }
    }
    EXPECT_EQ(0, std::memcmp(back.bytes.data(), source.pool().data, back.bytes.size()));
  }
}

TEST(CopyHeadPage, RefusesPoolsThatDiffer) {
  const Pool from({2, 64, 32, DType::kF16}, KvLayout::kHND, 2);
  const Pool other({2, 64, 32, DType::kBF16}, KvLayout::kNHD, 2);
  const Pool same({2, 64, 32, DType::kF16}, KvLayout::kNHD, 2);
  for (const auto copy : {reference::copy_head_page, cpu::copy_head_page}) {
    EXPECT_NO_THROW(copy(from.pool, 1, same.pool, 0, 1));
    EXPECT_THROW(copy(from.pool, 0, other.pool, 0, 0), Error);
    EXPECT_THROW(copy(from.pool, 2, same.pool, 0, 0), Error);
    EXPECT_THROW(copy(from.pool, 0, same.pool, -1, 0), Error);
    EXPECT_THROW(copy(from.pool, 0, same.pool, 0, 2), Error);
  }
}

}  // namespace
}  // namespace freekv
