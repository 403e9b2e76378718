#include "eval/scoring.hpp"

#include <gtest/gtest.h>

namespace freekv::eval {
namespace {

TEST(StringMatch, IsTheShareOfReferencesInTheAnswer) {
  EXPECT_EQ(string_match("They are 12, 34 and 56.", {"12", "56"}), 1);
  EXPECT_EQ(string_match("They are 12, 34 and 56.", {"12", "99", "98", "97"}), 0.25);
  EXPECT_EQ(string_match("AMBER-Cabin", {"amber-cabin"}), 1);
  EXPECT_EQ(string_match("", {"x"}), 0);
  EXPECT_EQ(string_match("x", {}), 0);
}

TEST(CommonSubsequence, OfHandCases) {
  EXPECT_EQ(common_subsequence({"a", "b", "c"}, {"a", "b", "c"}), 3u);
  EXPECT_EQ(common_subsequence({"a", "b", "c"}, {"c", "b", "a"}), 1u);
  EXPECT_EQ(common_subsequence({"a", "b", "c"}, {"x", "a", "x", "c"}), 2u);
  EXPECT_EQ(common_subsequence({}, {"a"}), 0u);
  EXPECT_EQ(common_subsequence({"a"}, {}), 0u);
}

TEST(Split, KeepsEmptyPiecesAndTrims) {
  EXPECT_EQ(split(" a -> b->c", "->"), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(split("", "->"), (std::vector<std::string>{""}));
  EXPECT_EQ(split("a\n\nb", "\n"), (std::vector<std::string>{"a", "", "b"}));
}

TEST(BoxedAnswer, IsTheLastWithBalancedBraces) {
  EXPECT_EQ(boxed_answer("so \\boxed{1} or rather \\boxed{\\frac{14}{3}}."), "\\frac{14}{3}");
  EXPECT_EQ(boxed_answer("\\boxed{7} and \\boxed{8"), "7") << "a cut box says nothing";
  EXPECT_EQ(boxed_answer("\\boxed{"), "");
  EXPECT_EQ(boxed_answer("42"), "");
  EXPECT_EQ(boxed_answer("\\boxed{{}"), "");
}

TEST(SameMath, OfHandCases) {
  const std::pair<const char*, const char*> same[] = {
      {"\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\dfrac{\\pi}{2})"},
      {"\\frac{14}{3}", "\\frac{14}3"},
      {"\\frac12", "\\frac{1}{2}"},
      {"\\frac{\\sqrt2}{2}", "\\frac{\\sqrt{2}}{2}"},
      {"11\\sqrt2", "11\\sqrt{2}"},
      {"90^\\circ", "90"},
      {"\\text{Evelyn}", "Evelyn"},
      {"x=5", "5"},
      {"\\$1,234", "1234"},
      {"33", "033"},
      {"1.25", "1.250"},
      {"-2 + 7i", "-2+7i"},
      {"12{,}345", "12{,}345"},
      {"70 \\sqrt{2}", "70\\sqrt{2}"}};
  for (const auto& [a, b] : same) EXPECT_TRUE(same_math(a, b)) << a << " and " << b;
  const std::pair<const char*, const char*> different[] = {
      {"1,-2", "1,2"}, {"3, 5, 7", "357"}, {"6", "9"},     {"", ""},         {"p - q", "q - p"},
      {"x=5", "y=6"},  {"52_8", "52"},     {"\\pi", "pi"}, {"nan", "nan 1"}, {"1,2", "12"}};
  for (const auto& [a, b] : different) EXPECT_FALSE(same_math(a, b)) << a << " and " << b;
}

TEST(NormalisedMath, EndsOnUnbalancedText) {
  for (const char* text : {"\\text{", "\\frac{", "\\frac", "\\sqrt{{", "\\frac{1", "}", "{", ",",
                           "-,", "\\frac\\frac\\frac1"}) {
    normalised_math(text);
  }
}

}  // namespace
}  // namespace freekv::eval
