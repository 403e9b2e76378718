#include "tokenizer/bpe_merges.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace freekv {
namespace {

using testing::ElementsAre;

std::vector<int32_t> merged(const BpeMerges& merges, const std::vector<int32_t>& word) {
  BpeMerges::Workspace workspace;
  std::vector<int32_t> out;
  merges.apply(word, workspace, out);
  return out;
}

// The definition: while any adjacent pair has a merge, apply the one of lowest rank, leftmost.
std::vector<int32_t> merged_naively(const std::vector<BpeMerge>& merges,
                                    std::vector<int32_t> word) {
  std::map<std::pair<int32_t, int32_t>, size_t> ranks;
  for (size_t i = 0; i < merges.size(); ++i)
    ranks.emplace(std::pair(merges[i].left, merges[i].right), i);
  while (true) {
    size_t best = merges.size();
    size_t at = 0;
    for (size_t i = 0; i + 1 < word.size(); ++i) {
      const auto it = ranks.find({word[i], word[i + 1]});
      if (it != ranks.end() && it->second < best) {
        best = it->second;
        at = i;
      }
    }
    if (best == merges.size()) return word;
    word[at] = merges[best].result;
    word.erase(word.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(BpeMerges, LowestRankFirstThenLeftmost) {
  // 0 0 -> 1, 1 0 -> 2, 0 1 -> 3: on 0 0 0 the left pair merges, never the right one.
  const std::vector<BpeMerge> list = {{0, 0, 1}, {1, 0, 2}, {0, 1, 3}};
  const BpeMerges merges(list, 4);
  EXPECT_EQ(merges.size(), 3u);
  EXPECT_THAT(merged(merges, {}), ElementsAre());
  EXPECT_THAT(merged(merges, {0}), ElementsAre(0));
  EXPECT_THAT(merged(merges, {0, 0, 0}), ElementsAre(2));
  EXPECT_THAT(merged(merges, {0, 0, 0, 0}), ElementsAre(1, 1));
  EXPECT_THAT(merged(merges, {3, 0, 0, 3}), ElementsAre(3, 1, 3));
}

TEST(BpeMerges, TheFirstOfEqualPairsCounts) {
  const std::vector<BpeMerge> list = {{0, 1, 2}, {0, 1, 3}};
  const BpeMerges merges(list, 4);
  EXPECT_EQ(merges.size(), 1u);
  EXPECT_THAT(merged(merges, {0, 1}), ElementsAre(2));
}

TEST(BpeMerges, AppendsToTheOutputAndReusesTheWorkspace) {
  const std::vector<BpeMerge> list = {{0, 1, 2}};
  const BpeMerges merges(list, 3);
  BpeMerges::Workspace workspace;
  std::vector<int32_t> out;
  merges.apply(std::vector<int32_t>{0, 1, 0, 1, 1}, workspace, out);
  merges.apply(std::vector<int32_t>{1, 0}, workspace, out);
  EXPECT_THAT(out, ElementsAre(2, 2, 1, 1, 0));
}

TEST(BpeMerges, AgreesWithTheDefinitionOnRandomMerges) {
  std::mt19937 random(3);
  for (int round = 0; round < 400; ++round) {
    const int32_t base = 1 + static_cast<int32_t>(random() % 3);
    int32_t vocab = base;
    std::vector<BpeMerge> list;
    // Results are new tokens, as a vocabulary's are: longer than both parts. Some pairs repeat.
    for (int i = 0; i < 12; ++i) {
      const auto any = [&] {
        return static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
      };
      list.push_back({any(), any(), vocab});
      ++vocab;
    }
    std::shuffle(list.begin(), list.end(), random);
    const BpeMerges merges(list, vocab);
    for (const size_t length : {2u, 3u, 7u, 40u}) {
      std::vector<int32_t> word(length);
      for (int32_t& id : word) id = static_cast<int32_t>(random() % static_cast<uint32_t>(base));
      ASSERT_EQ(merged(merges, word), merged_naively(list, word)) << round;
    }
  }
}

}  // namespace
}  // namespace freekv
