#include "eval/haystack.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "eval/names.hpp"
#include "eval/test_text.hpp"
#include "eval/words.hpp"
#include "freekv/error.hpp"

namespace freekv::eval {
namespace {

using testing::HasSubstr;

TEST(Random, IsTheSameOnEveryMachine) {
  // FNV-1a's published value of "a", and the 10,000th number that the standard gives for
  // std::mt19937_64 with its default seed.
  EXPECT_EQ(hash("a"), 0xaf63dc4c8601ec8cULL);
  Random random(5489);
  for (int i = 1; i < 10000; ++i) random.bits();
  EXPECT_EQ(random.bits(), 9981545732273789042ULL);
}

TEST(Random, DrawsStayInsideAndReachAll) {
  Random random("draws");
  std::set<uint64_t> seen;
  for (int i = 0; i < 200; ++i) {
    const uint64_t draw = random.below(7);
    EXPECT_LT(draw, 7u);
    seen.insert(draw);
    const double uniform = random.uniform();
    EXPECT_TRUE(uniform >= 0 && uniform < 1);
    const int64_t between = random.between(-2, 2);
    EXPECT_TRUE(between >= -2 && between <= 2);
  }
  EXPECT_EQ(seen.size(), 7u);
  EXPECT_EQ(random.below(1), 0u);
}

TEST(Names, AreOfTheirFormAndNeverTwice) {
  Random random("names");
  Names names(random);
  std::set<std::string> keys, nouns_drawn, variables;
  for (int i = 0; i < 300; ++i) {
    EXPECT_TRUE(keys.insert(names.key()).second);
    EXPECT_TRUE(nouns_drawn.insert(names.noun("room")).second) << "more than there are nouns";
  }
  for (int i = 0; i < 50; ++i) {
    const std::string variable = names.variable();
    EXPECT_TRUE(variables.insert(variable).second);
    EXPECT_EQ(variable.size(), 5u);
  }
  EXPECT_EQ(names.digits(5).size(), 5u);
  EXPECT_EQ(names.value("numbers").size(), 7u);
  EXPECT_THAT(
      names.value("uuids"),
      testing::MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
}

TEST(Words, AreTheTrainingLists) {
  EXPECT_EQ(adjectives().front(), "amber");
  EXPECT_EQ(adjectives().back(), "young");
  EXPECT_EQ(nouns().front(), "acorn");
  EXPECT_EQ(nouns().back(), "wool");
  EXPECT_EQ(name_heads().front(), "BAC");
  for (std::string_view tail : name_tails()) EXPECT_EQ(tail.size(), 2u);
}

TEST(FittingAmount, ComesCloseFromAnyGuess) {
  for (int64_t guess : {1, 10, 1000, 1000000}) {
    for (int64_t target : {50, 1000, 77777}) {
      const auto tokens = [](int64_t amount) { return 20 + amount / 3; };
      const int64_t amount = fitting_amount(guess, target, tokens);
      EXPECT_LE(tokens(amount), target) << guess;
      EXPECT_GE(static_cast<double>(tokens(amount)), 0.9 * static_cast<double>(target)) << guess;
    }
  }
  EXPECT_EQ(fitting_amount(100, 10, [](int64_t) { return 11; }), 0);
}

TEST(Haystack, HidesFactsInOrderAfterFullStops) {
  const auto haystack = test_haystack();
  Random random("hide");
  const std::vector<std::string> facts = {"Fact one.", "Fact two.", "Fact three."};
  const std::string text = haystack->hide(facts, 1000, count_bytes, random);
  EXPECT_LE(count_bytes(text), 1000);
  EXPECT_GE(count_bytes(text), 950);
  EXPECT_EQ(text.back(), '.');
  size_t last = 0;
  for (const std::string& fact : facts) {
    const size_t at = text.find(". " + fact + " ");
    ASSERT_NE(at, std::string::npos) << fact;
    EXPECT_GE(at, last);
    last = at;
  }
}

TEST(Haystack, DependsOnTheRandomStreamAlone) {
  const auto haystack = test_haystack();
  const auto hidden = [&](const char* purpose) {
    Random random(purpose);
    return haystack->hide({"A fact."}, 500, count_bytes, random);
  };
  EXPECT_EQ(hidden("one"), hidden("one"));
  EXPECT_NE(hidden("one"), hidden("two"));
}

TEST(Haystack, IsCyclicBeyondItsEnd) {
  const auto haystack = test_haystack();
  Random random("long");
  const std::string text = haystack->hide({"A fact."}, 100000, count_bytes, random);
  EXPECT_GE(count_bytes(text), 95000);
}

TEST(Haystack, RefusesFactsThatDoNotFit) {
  const auto haystack = test_haystack();
  Random random("small");
  const std::vector<std::string> facts(20, "A fact of some length.");
  try {
    haystack->hide(facts, 60, count_bytes, random);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("20 facts of 1"));
    EXPECT_THAT(error.what(), HasSubstr("60 tokens"));
  }
}

TEST(Haystack, LosesTheFactsOfOurTasks) {
  const std::string text = running_text(40);
  const std::string with_facts =
      "One of the special magic numbers for amber-cabin is: 1598231.\n" + text +
      "Ledger entry 52: corner 78. Room spoon leads to room chain. VAR CLEUN = 28191. "
      "VAR DALRO = VAR CLEUN. Room for one more, he said. The end.\n";
  Random random("facts");
  const std::string hidden = Haystack(with_facts, "test").hide({}, 2000, count_bytes, random);
  for (const char* fact : {"special magic", "Ledger entry", "leads to", "VAR "}) {
    EXPECT_EQ(hidden.find(fact), std::string::npos) << fact;
  }
  EXPECT_THAT(hidden, HasSubstr("Room for one more, he said. The end."));
}

TEST(Haystack, RefusesWhatIsNoText) {
  EXPECT_THROW(Haystack("", "empty"), Error);
  EXPECT_THROW(Haystack(std::string(5000, 'x'), "no sentences"), Error);
  try {
    Haystack(std::string("\xFD"
                         "7zXZ\0",
                         6) +
                 running_text(400),
             "books.txt.xz");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("books.txt.xz: is compressed"));
  }
}

}  // namespace
}  // namespace freekv::eval
