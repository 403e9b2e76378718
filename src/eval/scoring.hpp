// How answers are compared with what is right.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace freekv::eval {

std::string_view trimmed(std::string_view text);
std::string lowercase(std::string_view text);  // ASCII letters only
/// Pieces between separators, each trimmed; empty ones are kept.
std::vector<std::string> split(std::string_view text, std::string_view separator);
bool contains(std::string_view text, std::string_view part);

/// RULER's string match: the share of the references that the answer contains, in any case.
double string_match(std::string_view answer, const std::vector<std::string>& references);
/// Length of the longest common subsequence.
size_t common_subsequence(const std::vector<std::string>& a, const std::vector<std::string>& b);

/// The content of the last \boxed{...}, braces balanced; empty when there is none.
std::string boxed_answer(std::string_view text);
/// A mathematical answer without what does not change its meaning: spaces, \left, \text, $, degree
/// signs, a leading "x=", \dfrac for \frac, trailing zeros of a decimal and the like.
std::string normalised_math(std::string_view answer);
bool same_math(std::string_view a, std::string_view b);

}  // namespace freekv::eval
