// The device's arithmetic is the cache's: layout.hpp against kvcache's PageLayout and the pools of
// backends/tensors.hpp. Needs no GPU.
#include "backends/cuda/layout.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "backends/tensors.hpp"
#include "kvcache/page_layout.hpp"

namespace freekv::cuda {
namespace {

struct Sizes {
  int64_t budget, sink, window;
  int page;
  double resident = 1;
  bool selects = true;
};

std::string name(const Sizes& sizes) {
  return "B=" + std::to_string(sizes.budget) + " S=" + std::to_string(sizes.sink) +
         " W=" + std::to_string(sizes.window) + " p=" + std::to_string(sizes.page) +
         " resident=" + std::to_string(sizes.resident) +
         (sizes.selects ? "" : " without selection");
}

// Around whole pages of each, with every page and resident sets of one and more.
std::vector<Sizes> all_sizes() {
  std::vector<Sizes> result;
  for (const int page : {16, 32, 64}) {
    for (const int64_t sink : {0, 1, page, page + 1, 4 * page}) {
      for (const int64_t window : {0, 1, page, 2 * page - 1, 2 * page + 1}) {
        for (const int64_t budget : {8 * page, 8 * page + 1, 9 * page - 1, 13 * page + 7}) {
          result.push_back({budget, sink, window, page});
          result.push_back({budget, sink, window, page, 1.5});
          result.push_back({budget, sink, window, page, 4});
          result.push_back({budget, sink, window, page, 1, false});
        }
      }
    }
  }
  return result;
}

PageLayout make_layout(const Sizes& sizes) {
  CacheConfig config;
  config.layers = 1;
  config.query_heads = 2;
  config.shape = {1, 64, sizes.page, DType::kBF16};
  config.max_context = 100 * sizes.page;
  config.tokens = {sizes.budget, sizes.sink, sizes.window};
  CacheNeeds needs;
  needs.resident_factor = sizes.resident;
  needs.selects = sizes.selects;
  return PageLayout(config, needs);
}

PageMap make_map(const PageLayout& layout, int64_t budget) {
  return {.page = layout.page(),
          .budget = budget,
          .sink = layout.sink_pages(),
          .window = layout.window_pages(),
          .selected = layout.selected(),
          .resident = layout.resident()};
}

void expect_same_at(const PageMap& map, const PageLayout& layout, int64_t tokens) {
  ASSERT_EQ(map.pages(tokens), layout.pages(tokens));
  ASSERT_EQ(map.over_budget(tokens), layout.over_budget(tokens));
  ASSERT_EQ(map.window_begin(tokens), layout.window_begin(tokens));
  ASSERT_EQ(map.candidates(tokens), layout.candidates(tokens).size());
  ASSERT_EQ(layout.candidates(tokens).first, map.sink);
}

TEST(PageMap, IsPageLayoutForAllLengths) {
  for (const Sizes& sizes : all_sizes()) {
    SCOPED_TRACE(name(sizes));
    const PageLayout layout = make_layout(sizes);
    const PageMap map = make_map(layout, sizes.budget);
    for (int64_t tokens = 0; tokens <= 3 * sizes.budget + 2; ++tokens) {
      SCOPED_TRACE("T = " + std::to_string(tokens));
      ASSERT_NO_FATAL_FAILURE(expect_same_at(map, layout, tokens));
    }
    for (const int64_t tokens : {1 << 20, (1 << 20) + 1, (1 << 30) - 1, 1 << 30}) {
      SCOPED_TRACE("T = " + std::to_string(tokens));
      ASSERT_NO_FATAL_FAILURE(expect_same_at(map, layout, tokens));
    }
  }
}

TEST(PageMap, HasPageLayoutsSlots) {
  for (const Sizes& sizes : all_sizes()) {
    SCOPED_TRACE(name(sizes));
    const PageLayout layout = make_layout(sizes);
    const PageMap map = make_map(layout, sizes.budget);
    ASSERT_EQ(map.budget_slots(), layout.budget_slots());
    ASSERT_EQ(map.attended(), layout.attended_pages());
    ASSERT_EQ(map.sink, layout.first_selected_slot());
    for (int32_t page = 0; page < 1000; ++page) {
      ASSERT_EQ(map.common_slot(page), layout.common_slot(page)) << "page " << page;
    }
  }
}

TEST(KvGeometry, PlacesValuesAsPoolsDo) {
  for (const int heads : {1, 3, 8}) {
    for (const int head_dim : {64, 80, 96, 128, 256}) {
      for (const int page : {16, 32, 64}) {
        const KvGeometry kv{heads, 4, head_dim, page, KvType::kBF16};
        const KvShape shape{heads, head_dim, page, DType::kBF16};
        const auto bytes = [](int64_t values) { return static_cast<size_t>(values) * 2; };
        ASSERT_EQ(bytes(kv.head_page()), shape.head_page_bytes());
        ASSERT_EQ(bytes(kv.slot()), shape.slot_bytes());
        const size_t slots = 3;
        std::vector<std::byte> memory(slots * shape.slot_bytes());
        const KvPool fast{memory.data(), shape, KvLayout::kNHD, slots};
        const KvPool slow{memory.data(), shape, KvLayout::kHND, slots};
        for (int32_t at = 0; at < static_cast<int32_t>(slots); ++at) {
          for (int head = 0; head < heads; ++head) {
            ASSERT_EQ(memory.data() + bytes(kv.slow_head_page(at, head)), slow.keys(at, head));
            for (int token = 0; token < page; ++token) {
              const size_t offset = static_cast<size_t>(token) * fast.token_stride();
              ASSERT_EQ(memory.data() + bytes(kv.fast_key(at, token, head)),
                        fast.keys(at, head) + offset);
              ASSERT_EQ(memory.data() + bytes(kv.fast_value(at, token, head)),
                        fast.values(at, head) + offset);
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace freekv::cuda
