// Prompts that take over what another one has computed: the same state as computing it, whatever
// the two rules and page sizes are and wherever the pages stand.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/cuda/prefill_world.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

using namespace prefill_cases;

constexpr int32_t kChunk = 64;

RetrievalRule selecting() { return {.selects = true, .dense_layers = 1}; }

RetrievalRule token_major() {
  RetrievalRule rule = retrieving();
  rule.mechanism = Mechanism::kPerPage;
  rule.host_layout = HostLayout::kTokenMajor;
  return rule;
}

const std::vector<RetrievalRule>& rules() {
  static const std::vector<RetrievalRule> all = {{}, selecting(), retrieving(), token_major()};
  return all;
}

void expect_same_steps(World& a, World& b, int count) {
  for (int32_t i = 0; i < count; ++i) {
    ASSERT_EQ(a.step(i * 29 % 96), b.step(i * 29 % 96)) << "step " << i;
  }
}

// Every rule from every other, at once after the prompt, and after steps that filled pages.
TEST(PrefillPrefix, AWholePromptIsTakenOverToTheBit) {
  const Model model(kCases[0]);
  const int page = kCases[0].page;
  const int64_t budget = map_of(page).budget;
  for (size_t from = 0; from < rules().size(); ++from) {
    for (size_t to = 0; to < rules().size(); ++to) {
      World source(model, rules()[from], kChunk), taken(model, rules()[to], kChunk),
          computed(model, rules()[to], kChunk);
      for (const int64_t tokens : {int64_t{1}, int64_t{page}, budget - 3, budget + 1,
                                   budget + 3 * page, budget + 5 * page + 7}) {
        SCOPED_TRACE(testing::Message() << tokens << " tokens, rule " << from << " to " << to);
        const std::vector<int32_t> ids = prompt(tokens);
        EXPECT_EQ(computed.run(ids), source.run(ids));
        for (const int steps : {0, 3, page + 2}) {
          for (int32_t i = 0; i < steps; ++i) source.step(i);
          // What stood there before is gone.
          taken.run(prompt(90));
          taken.step(5);
          EXPECT_TRUE(std::isnan(taken.run(ids, source.first(tokens)).front()));
          computed.run(ids);
          expect_same_steps(taken, computed, 4);
        }
      }
    }
  }
}

TEST(PrefillPrefix, EveryShapeIsTakenOver) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name());
    const Model model(c);
    World source(model, retrieving(), kChunk), taken(model, retrieving(), kChunk),
        computed(model, retrieving(), kChunk);
    const int64_t tokens = map_of(c.page).budget + 2 * c.page + 5;
    source.run(prompt(tokens));
    for (int32_t i = 0; i < 6; ++i) source.step(i);
    taken.run(prompt(tokens), source.first(tokens));
    computed.run(prompt(tokens));
    expect_same_steps(taken, computed, 6);
  }
}

TEST(PrefillPrefix, PagesOfAnotherSizeAreTakenOver) {
  Case large = kCases[0], small = kCases[0];
  large.page = 32;
  const Model model(small), same(large);  // of one seed
  const std::vector<int32_t> ids = prompt(413);
  for (const bool to_small : {true, false}) {
    const Model& from = to_small ? same : model;
    const Model& to = to_small ? model : same;
    World source(from, retrieving(), kChunk), taken(to, retrieving(), kChunk),
        computed(to, retrieving(), kChunk);
    source.run(ids);
    for (int32_t i = 0; i < 5; ++i) source.step(i);
    taken.run(ids, source.first(413));
    computed.run(ids);
    expect_same_steps(taken, computed, 5);
  }
}

TEST(PrefillPrefix, ASequenceTakesItsOwnPromptOver) {
  const Model model(kCases[0]);
  const int page = kCases[0].page;
  for (const RetrievalRule& rule : rules()) {
    for (const int64_t tokens : {int64_t{5 * page}, int64_t{11 * page + 7}}) {
      World taken(model, rule, kChunk), computed(model, rule, kChunk);
      const std::vector<int32_t> ids = prompt(tokens);
      computed.run(ids);
      taken.run(ids);
      for (int32_t i = 0; i < page + 2; ++i) taken.step(i);
      taken.run(ids, taken.first(tokens));
      expect_same_steps(taken, computed, 4);
    }
  }
}

// The tokens after the prefix are computed in the same chunks as without it, and therefore to the
// same bits.
TEST(PrefillPrefix, WholeChunksChangeNoBit) {
  const Model model(kCases[0]);
  const std::vector<int32_t> ids = prompt(173);
  std::vector<int32_t> other = ids;
  std::fill(other.begin() + 130, other.end(), 7);
  for (const RetrievalRule& rule : rules()) {
    World source(model, {}, kChunk), taken(model, rule, kChunk), computed(model, rule, kChunk);
    source.run(other);
    EXPECT_EQ(taken.run(ids, source.first(2 * kChunk)), computed.run(ids));
    expect_same_steps(taken, computed, 4);
    taken.run(other);
    taken.step(3);
    EXPECT_EQ(taken.run(ids, taken.first(2 * kChunk)), computed.run(ids));
    expect_same_steps(taken, computed, 4);
  }
}

TEST(PrefillPrefix, APromptGoesOnFromAnyPage) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name());
    const Model model(c);
    const std::vector<int32_t> ids = prompt(173);
    std::vector<int32_t> other = ids;
    std::fill(other.begin() + 2 * c.page + 3, other.end(), 7);
    World source(model, retrieving(), kChunk), taken(model, {}, kChunk),
        computed(model, {}, kChunk);
    source.run(other);
    const std::vector<float> logits = taken.run(ids, source.first(2 * c.page));
    EXPECT_LE(distance(logits, computed.run(ids)), kTolerance);
    for (int32_t l = 0; l < taken.shape.layers; ++l) {
      for (const bool value : {false, true}) {
        EXPECT_LE(distance(held(taken, l, value, 173), held(computed, l, value, 173)), kTolerance);
      }
    }
    for (int32_t i = 0; i < 4; ++i) {
      EXPECT_LE(distance(taken.step(i), computed.step(i)), 2e-2) << "step " << i;
    }
  }
}

TEST(PrefillPrefix, RefusesWhatIsNotThere) {
  const Model model(kCases[0]), other(kCases[1]);
  World source(model, {}, kChunk), taken(model, {}, kChunk), odd(other, {}, kChunk);
  source.run(prompt(40));
  odd.run(prompt(64));
  EXPECT_THROW(taken.run(prompt(100), source.first(48)), Error);  // holds 40
  EXPECT_THROW(taken.run(prompt(100), source.first(20)), Error);  // no whole pages
  EXPECT_THROW(taken.run(prompt(16), source.first(32)), Error);   // longer than the prompt
  EXPECT_THROW(taken.run(prompt(100), odd.first(64)), Error);     // heads of another model
  EXPECT_NO_THROW(taken.run(prompt(100), source.first(32)));
}

}  // namespace
}  // namespace freekv::cuda
