// Suites that make their samples: wording, determinism, and answers that can be found.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "eval/scoring.hpp"
#include "eval/suite.hpp"
#include "eval/test_text.hpp"
#include "freekv/error.hpp"

namespace freekv::eval {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

Sample make(const Suite& suite, uint64_t seed, int64_t index, int64_t context) {
  const TokenCounter count = count_bytes;
  return suite.make({.seed = seed, .index = index, .context = context, .count = count});
}

SuiteOptions test_options() {
  SuiteOptions options;
  options.haystack = test_haystack();
  options.entries = 12;
  options.records = 5;
  return options;
}

std::unique_ptr<Suite> only(const std::string& name, const SuiteOptions& options = test_options()) {
  Suites suites = make_suites(name, options);
  EXPECT_EQ(suites.size(), 1u) << name;
  return std::move(suites.front());
}

/// A parameter for each suite that makes its samples.
class MadeSuites : public testing::TestWithParam<std::string> {};

TEST_P(MadeSuites, FitTheContextAndScoreTheirAnswersRight) {
  const auto suite = only(GetParam());
  for (int64_t context : {4096, 8192}) {
    const Sample sample = make(*suite, 7, 3, context);
    ASSERT_FALSE(sample.turns.empty());
    for (const Turn& turn : sample.turns) {
      const int64_t tokens =
          count_bytes(sample.document) + count_bytes(turn.question) + count_bytes(turn.answer);
      EXPECT_LE(tokens, context);
      EXPECT_GE(tokens, context * 9 / 10);
      EXPECT_TRUE(suite->score(turn, turn.answer).exact) << turn.answer;
      EXPECT_EQ(suite->score(turn, turn.answer).value, 1);
      EXPECT_EQ(suite->score(turn, "").value, 0);
      EXPECT_FALSE(suite->score(turn, "I do not know.").exact);
    }
  }
}

TEST_P(MadeSuites, AreDeterministic) {
  const auto suite = only(GetParam());
  const Sample a = make(*suite, 7, 3, 4096), b = make(*suite, 7, 3, 4096);
  EXPECT_EQ(a.document, b.document);
  EXPECT_EQ(a.turns[0].question, b.turns[0].question);
  EXPECT_EQ(a.turns[0].answer, b.turns[0].answer);
  EXPECT_NE(a.document, make(*suite, 7, 4, 4096).document);
  EXPECT_NE(a.document, make(*suite, 8, 3, 4096).document);
  // The same facts at every length.
  EXPECT_EQ(a.turns[0].answer, make(*suite, 7, 3, 8192).turns[0].answer);
}

TEST_P(MadeSuites, RefuseAContextThatIsTooSmall) {
  const auto suite = only(GetParam());
  EXPECT_THROW(make(*suite, 7, 0, 8), Error);
  EXPECT_THROW(make(*suite, 7, 0, 90), Error);
}

INSTANTIATE_TEST_SUITE_P(All, MadeSuites,
                         testing::Values("ruler/niah-single", "ruler/niah-multi-key",
                                         "ruler/niah-multi-key-words", "ruler/niah-multi-key-uuids",
                                         "ruler/niah-multi-value", "ruler/niah-multi-query",
                                         "ruler/variable-tracking",
                                         "ruler/variable-tracking-3-chains", "ruler/common-words",
                                         "ruler/frequent-words", "chain", "ledger", "copy-json"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name)
                             c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

TEST(Suites, AreTheSameOnEveryMachine) {
  // Any change of these numbers makes committed results those of other samples.
  EXPECT_EQ(hash(make(*only("ruler/niah-multi-key-uuids"), 7, 3, 4096).document),
            9856498518027105285u);
  EXPECT_EQ(hash(make(*only("ruler/common-words"), 7, 3, 4096).document), 12653042359899249405u);
  EXPECT_EQ(hash(make(*only("ledger"), 7, 3, 4096).document), 17039764717270952466u);
}

TEST(Suites, RulerIsAllItsTasks) { EXPECT_EQ(make_suites("ruler", test_options()).size(), 10u); }

TEST(Suites, NeedlesHaveTheTrainedWording) {
  const Sample sample = make(*only("ruler/niah-multi-value"), 1, 0, 2048);
  const Turn& turn = sample.turns.front();
  ASSERT_EQ(turn.references.size(), 4u);
  EXPECT_THAT(turn.question,
              MatchesRegex("What are all the special magic numbers for [a-z]+-[a-z]+ mentioned in "
                           "the provided text\\?"));
  EXPECT_THAT(turn.answer, MatchesRegex("The special magic numbers for [a-z]+-[a-z]+ mentioned in "
                                        "the provided text are [0-9]{7}, .*\\."));
  size_t last = 0;  // in the document's order
  for (const std::string& value : turn.references) {
    const size_t at = sample.document.find(" is: " + value + ".");
    ASSERT_NE(at, std::string::npos);
    EXPECT_GT(at, last);
    last = at;
  }
  EXPECT_THAT(
      sample.document,
      HasSubstr("Some special magic numbers are hidden within the following text. Make sure "
                "to memorize it. I will quiz you about the numbers afterwards.\n"));
  const Turn single = make(*only("ruler/niah-single"), 1, 0, 2048).turns.front();
  EXPECT_THAT(single.question,
              MatchesRegex("What is the special magic number for [a-z]+-[a-z]+ mentioned in the "
                           "provided text\\?"));
  EXPECT_THAT(make(*only("ruler/niah-multi-query"), 1, 0, 2048).turns.front().question,
              MatchesRegex("What are all the special magic numbers for [-a-z]+, [-a-z]+, [-a-z]+, "
                           "and [-a-z]+ mentioned in the provided text\\?"));
}

TEST(Suites, VariablesFollowTheOnesTheyReferTo) {
  const Sample sample = make(*only("ruler/variable-tracking-3-chains"), 2, 0, 4096);
  const auto& names = sample.turns.front().references;
  ASSERT_EQ(names.size(), 5u);
  size_t last = sample.document.find("VAR " + names[0] + " = ");
  ASSERT_NE(last, std::string::npos);
  for (size_t i = 1; i < names.size(); ++i) {
    const size_t at = sample.document.find("VAR " + names[i] + " = VAR " + names[i - 1] + ".");
    ASSERT_NE(at, std::string::npos);
    EXPECT_GT(at, last);
    last = at;
  }
}

TEST(Suites, ChainsCanBeWalked) {
  const Sample sample = make(*only("chain"), 3, 0, 4096);
  const auto& rooms = sample.turns.front().references;
  EXPECT_GE(rooms.size(), 13u);
  EXPECT_LE(rooms.size(), 21u);
  for (size_t i = 1; i < rooms.size(); ++i) {
    EXPECT_THAT(sample.document,
                HasSubstr("Room " + rooms[i - 1] + " leads to room " + rooms[i] + "."));
  }
  EXPECT_EQ(sample.document.find("Room " + rooms.back() + " leads"), std::string::npos);
  const auto suite = only("chain");
  const std::string half = "The path is: " + rooms[0] + " -> " + rooms[1] + " -> nowhere.";
  EXPECT_DOUBLE_EQ(suite->score(sample.turns[0], half).value,
                   2.0 / static_cast<double>(rooms.size()));
}

TEST(Suites, LedgersHaveTheirEntriesAndQuestions) {
  SuiteOptions options = test_options();
  options.questions = 3;
  const Sample sample = make(*only("ledger", options), 4, 0, 4096);
  ASSERT_EQ(sample.turns.size(), 3u);
  size_t lines = 0;
  for (const Turn& turn : sample.turns) {
    EXPECT_THAT(turn.question, MatchesRegex("Write out the ledger entries [0-9]{2} to [0-9]{2} in "
                                            "order\\."));
    for (const std::string& line : turn.references) {
      EXPECT_THAT(line, MatchesRegex("[0-9]{2}: [a-z]+ [0-9]{2}"));
      EXPECT_THAT(sample.document, HasSubstr("Ledger entry " + line + "."));
      ++lines;
    }
  }
  EXPECT_EQ(lines, 12u);
  options.entries = 2000;
  options.questions = 1;
  const Sample large = make(*only("ledger", options), 4, 0, 60000);
  EXPECT_EQ(large.turns[0].references.size(), 2000u);
  options.entries = 0;
  EXPECT_THROW(make_suites("ledger", options), Error);
  options.entries = 2;
  options.questions = 3;
  EXPECT_THROW(make_suites("ledger", options), Error);
}

TEST(Suites, LedgerScoresLinesInOrder) {
  const auto suite = only("ledger");
  Turn turn;
  turn.references = {"10: a 11", "11: b 12", "12: c 13", "13: d 14"};
  EXPECT_EQ(suite->score(turn, "10: a 11\n11: b 99\n12: c 13\n13: d 14\n").value, 0.75);
  EXPECT_EQ(suite->score(turn, "13: d 14\n12: c 13\n11: b 12\n10: a 11").value, 0.25);
  const Score extra = suite->score(turn, "10: a 11\n11: b 12\n12: c 13\n13: d 14\n14: e 15");
  EXPECT_EQ(extra.value, 1);
  EXPECT_FALSE(extra.exact);
}

TEST(Suites, CopyJsonScoresFields) {
  const auto suite = only("copy-json");
  Turn turn;
  turn.references = {
      R"({"order":12345,"customer":"A B","quantity":2,"item":"red hat","price":10})",
      R"({"order":54321,"customer":"C D","quantity":3,"item":"old bell","price":20})"};
  const std::string both = turn.references[0] + "\n" + turn.references[1];
  EXPECT_TRUE(suite->score(turn, both).exact);
  EXPECT_TRUE(suite->score(turn, "```json\n" + both + "\n```").exact);
  const Score swapped = suite->score(turn, turn.references[1] + "\n" + turn.references[0]);
  EXPECT_EQ(swapped.value, 1);
  EXPECT_FALSE(swapped.exact);
  EXPECT_FALSE(suite->score(turn, "Here they are:\n" + both).exact);
  // One of two records: 5 right of 10 expected and 5 written.
  EXPECT_DOUBLE_EQ(suite->score(turn, turn.references[0]).value, 10.0 / 15);
  // One field wrong, one missing: 3 right of 10 expected and 4 written.
  EXPECT_DOUBLE_EQ(
      suite->score(turn, R"({"order":12345,"customer":"A B","quantity":9,"item":"red hat"})").value,
      6.0 / 14);
  // Unfinished JSON claims the fields of a record; order numbers as text name no record.
  EXPECT_DOUBLE_EQ(suite->score(turn, turn.references[0] + "\n{\"order\": 54").value, 10.0 / 20);
  EXPECT_EQ(suite->score(turn, R"({"order":"12345"})").value, 0);
  EXPECT_EQ(suite->score(turn, std::string(100000, '[')).value, 0);
}

TEST(Suites, RefuseUnknownNames) {
  const auto message = [](const std::string& name) {
    try {
      make_suites(name, test_options());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(message("rulers"), HasSubstr("suite \"rulers\" is unknown; there are ruler, chain"));
  EXPECT_THAT(message("ruler/niah"), HasSubstr("ruler/niah-single"));
  EXPECT_THAT(message("chain:file.json"), HasSubstr("takes no file"));
  EXPECT_THAT(message("math"), HasSubstr("math:FILE"));
  EXPECT_THROW(make_suites("chain", {}), Error) << "without a haystack";
}

}  // namespace
}  // namespace freekv::eval
