// Suites that read files: the formats, their scores, and files that are not what they should be.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "eval/records.hpp"
#include "eval/suite.hpp"
#include "eval/test_text.hpp"
#include "freekv/error.hpp"
#include "support/scratch_folder.hpp"

namespace freekv::eval {
namespace {

using testing::HasSubstr;

class FileSuites : public testing::Test {
 protected:
  std::unique_ptr<Suite> suite(const std::string& name, const std::string& text) {
    folder_.write("suite.json", text);
    return std::move(make_suites(name + ":" + path_, {}).front());
  }
  /// The one line a file is refused with.
  std::string refusal(const std::string& name, const std::string& text) {
    try {
      suite(name, text);
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(path_));
      const std::string message = error.what();
      EXPECT_EQ(message.find('\n'), std::string::npos);
      return message.substr(path_.size());
    }
    return "accepted";
  }
  static Sample make(const Suite& suite, int64_t index, int64_t context = 4096) {
    const TokenCounter count = count_bytes;
    return suite.make({.seed = 0, .index = index, .context = context, .count = count});
  }

  testing_support::ScratchFolder folder_;
  const std::string path_ = folder_.file("suite.json");
};

TEST_F(FileSuites, MathAsksForABoxAndReadsIt) {
  const auto math = suite("math",
                          "{\"problem\":\"1+1?\",\"answer\":\"2\",\"unique_id\":\"a\"}\n\n"
                          "{\"problem\":\"half?\",\"answer\":\"\\\\frac{1}{2}\"}\n");
  ASSERT_EQ(math->size(), 2);
  const Sample sample = make(*math, 0);
  EXPECT_EQ(sample.id, "a");
  EXPECT_EQ(sample.turns[0].question,
            "1+1?\n\nPlease reason step by step, and put your final answer within \\boxed{}.");
  EXPECT_TRUE(math->score(sample.turns[0], "So \\boxed{2}.").exact);
  EXPECT_FALSE(math->score(sample.turns[0], "So 2.").exact);
  EXPECT_TRUE(math->score(make(*math, 1).turns[0], "\\boxed{\\dfrac12}").exact);
}

TEST_F(FileSuites, AimeTakesNumbersAndLists) {
  const auto aime = suite("aime", R"([{"id":"2024-II-4","problem":"p","answer":33}])");
  EXPECT_TRUE(aime->score(make(*aime, 0).turns[0], "\\boxed{033}").exact);
  EXPECT_FALSE(aime->score(make(*aime, 0).turns[0], "\\boxed{34}").exact);
}

TEST_F(FileSuites, MalformedFilesAreRefusedWithFileLineAndField) {
  EXPECT_THAT(refusal("math", "{\"problem\":\"p\",\"answer\":\"1\"}\n{\"problem\":\"p\"}\n"),
              HasSubstr(": line 2: field \"answer\" is missing"));
  EXPECT_THAT(refusal("math", "{\"problem\":7,\"answer\":\"1\"}"),
              HasSubstr(": line 1: field \"problem\" is 7, must be a string"));
  EXPECT_THAT(
      refusal("math", R"([{"problem":"p","answer":"1"},{"problem":"p","answer":[1]}])"),
      HasSubstr(": record 2: field \"answer\" is a JSON array, must be a string or a number"));
  EXPECT_THAT(refusal("math", "{\"problem\":\"p\",\"answer\":\"1\"}\n{\"problem\""),
              HasSubstr(": line 2: is not a JSON object"));
  EXPECT_THAT(refusal("math", "[1]"), HasSubstr(": record 1: is not a JSON object"));
  EXPECT_THAT(refusal("math", "[{}"), HasSubstr("begins like a JSON list"));
  EXPECT_THAT(refusal("math", "[]"), HasSubstr("has no records"));
  EXPECT_THAT(refusal("math", "\n \n"), HasSubstr("has no records"));
  EXPECT_THAT(refusal("math", "\xff\xfe"), HasSubstr("line 1: is not a JSON object"));
  EXPECT_THAT(refusal("math", std::string(200000, '[')), HasSubstr("nested deeper than 100"));
  EXPECT_THAT(refusal("math", "{\"problem\":\"p\",\"answer\":\" \"}"), HasSubstr("an answer"));
  EXPECT_THROW(make_suites("math:/nowhere/none.jsonl", {}), Error);
}

const char* const kChoices =
    R"("choice_A":"red","choice_B":"blue","choice_C":"green","choice_D":"none")";

TEST_F(FileSuites, LongBenchV2HasItsWordingAndChoices) {
  std::string context;
  for (int i = 0; i < 4000; ++i) context += fmt::format("w{} ", i);
  const auto suite_of =
      suite("longbench-v2", "[{\"_id\":\"x\",\"context\":\"" + context +
                                "\",\"question\":\"Which?\"," + kChoices + ",\"answer\":\"B\"}]");
  const Sample whole = make(*suite_of, 0, 100000);
  EXPECT_THAT(whole.document, HasSubstr("w1999 w2000 w2001"));
  EXPECT_THAT(whole.document, testing::StartsWith("Please read the following text and answer the "
                                                  "question below.\n\n<text>\nw0 "));
  EXPECT_THAT(
      whole.turns[0].question,
      HasSubstr("What is the correct answer to this question: Which?\nChoices:\n(A) red\n(B) "
                "blue\n(C) green\n(D) none\n\nFormat your response as follows: \"The correct "
                "answer is (insert answer here)\"."));
  const Sample cut = make(*suite_of, 0, 1000);
  EXPECT_LE(count_bytes(cut.document), 1000);
  EXPECT_GE(count_bytes(cut.document), 800);
  EXPECT_THAT(cut.document, HasSubstr("w0 w1 "));
  EXPECT_THAT(cut.document, HasSubstr(" w3999"));
  EXPECT_EQ(cut.document.find("w2000"), std::string::npos);
  const Turn& turn = whole.turns[0];
  for (const char* right :
       {"The correct answer is (B)", "The correct answer is B.", "**The correct answer is (B)**",
        "Well. The correct answer is (B) blue"}) {
    EXPECT_TRUE(suite_of->score(turn, right).exact) << right;
  }
  for (const char* wrong : {"The correct answer is (A)", "B", "", "The correct answer is",
                            "The correct answer is Blue", "The correct answer is ("}) {
    EXPECT_FALSE(suite_of->score(turn, wrong).exact) << wrong;
  }
}

TEST_F(FileSuites, LongBenchV2RefusesOtherAnswers) {
  EXPECT_THAT(refusal("longbench-v2", std::string(R"([{"_id":"x","context":"c","question":"q",)") +
                                          kChoices + R"(,"answer":"E"}])"),
              HasSubstr("record 1: field \"answer\" is \"E\", must be A, B, C or D"));
  EXPECT_THAT(refusal("longbench-v2",
                      R"({"_id":"x","context":"c","question":"q","choice_A":"a","answer":"A"})"),
              HasSubstr("line 1: field \"choice_B\" is missing"));
}

TEST_F(FileSuites, LongGenBenchCountsPartsAndInstructions) {
  const std::string file =
      R"([{"prompt":"Write a diary.","checks_once":{"2":"my wife birthday"},"checks_range":{},)"
      R"("checks_periodic":{"3":"Attend a parenting workshop"},"type":"Week","prefix":"","number":3}])";
  const auto diary = suite("longgenbench", file);
  const Turn turn = make(*diary, 0).turns[0];
  EXPECT_EQ(turn.question, "Write a diary.");
  const Score all =
      diary->score(turn,
                   "It snowed.\n#*# Week 2 (x): the birthday of my wife.\n#*# Week 3: "
                   "We attended the parenting workshops.\n*** finished ***");
  EXPECT_TRUE(all.exact);
  // Parts 1 and 2 of three, one of two instructions.
  EXPECT_DOUBLE_EQ(diary->score(turn, "a #*# Week 2: wife's birthday").value, 3.0 / 5);
  EXPECT_EQ(diary->score(turn, "").value, 0);
  EXPECT_DOUBLE_EQ(diary->score(turn, "a #*# Week 99999999999: b #*# no number").value, 1.0 / 5);
}

TEST_F(FileSuites, LongGenBenchRefusesChecksOfNoPart) {
  const auto with = [](const std::string& checks, const std::string& number) {
    return R"([{"prompt":"p","checks_once":)" + checks +
           R"(,"checks_range":{},"checks_periodic":{},"type":"Week","prefix":"","number":)" +
           number + "}]";
  };
  EXPECT_THAT(refusal("longgenbench", with(R"({"9":"x"})", "3")), HasSubstr("\"checks_once\""));
  EXPECT_THAT(refusal("longgenbench", with(R"({"2\n":"x"})", "3")), HasSubstr("from 1 to 3"));
  EXPECT_THAT(refusal("longgenbench", with(R"({"2":5})", "3")), HasSubstr("\"checks_once\""));
  EXPECT_THAT(refusal("longgenbench", with("[]", "3")), HasSubstr("\"checks_once\""));
  EXPECT_THAT(refusal("longgenbench", with("{}", "0")), HasSubstr("field \"number\" is 0"));
  EXPECT_THAT(refusal("longgenbench", with("{}", "1e99")), HasSubstr("field \"number\""));
}

TEST_F(FileSuites, NoDamagedFileDoesMoreThanThrow) {
  const std::pair<std::string, std::string> files[] = {
      {"aime", R"([{"id":"1","problem":"p\u00e9","answer":33}])"},
      {"longbench-v2",
       std::string(R"({"_id":"x","context":"c","question":"q",)") + kChoices + R"(,"answer":"D"})"},
      {"longgenbench",
       R"([{"prompt":"p","checks_once":{"2":"a b"},"checks_range":{"1":""},"checks_periodic":{},)"
       R"("type":"Week","prefix":"","number":3}])"}};
  for (const auto& [name, good] : files) {
    for (size_t at = 0; at < good.size(); ++at) {
      for (const char c : {'\0', '"', '[', '9', '\xff'}) {
        std::string damaged = good;
        damaged[at] = c;
        try {
          const auto accepted = suite(name, damaged);
          const Turn turn = make(*accepted, 0).turns[0];
          accepted->score(turn, "1 #*# Week 2 The correct answer is (A) \\boxed{33}");
        } catch (const Error& error) {
          EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
        }
      }
    }
  }
}

TEST(BenchFiles, OfTheFormatsAreRead) {
  const std::string folder = std::string(FREEKV_SOURCE_DIR) + "/../shared/data/bench/";
  if (!std::ifstream(folder + "math50.jsonl")) GTEST_SKIP() << "no " << folder;
  EXPECT_EQ(make_suites("math:" + folder + "math50.jsonl", {}).front()->size(), 50);
  EXPECT_EQ(make_suites("aime:" + folder + "aime24.jsonl", {}).front()->size(), 30);
  EXPECT_EQ(make_suites("longgenbench:" + folder + "longgenbench_sample.json", {}).front()->size(),
            1);
  // Every answer of the file equals the box of its own solution: the reading of boxes and the
  // comparison, on real mathematics.
  const auto records = read_records(folder + "math50.jsonl");
  const auto suite = std::move(make_suites("math:" + folder + "math50.jsonl", {}).front());
  const TokenCounter count = count_bytes;
  for (size_t i = 0; i < records.size(); ++i) {
    const Sample sample =
        suite->make({.seed = 0, .index = static_cast<int64_t>(i), .context = 4096, .count = count});
    EXPECT_TRUE(suite->score(sample.turns[0], records[i].text("solution")).exact)
        << records[i].text("answer");
  }
}

}  // namespace
}  // namespace freekv::eval
