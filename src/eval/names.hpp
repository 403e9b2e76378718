// Keys, names and numbers of the generated facts, none twice within one sample.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <utility>

#include "eval/random.hpp"

namespace freekv::eval {

class Names {
 public:
  explicit Names(Random& random) : random_(random) {}

  /// "amber-cabin".
  std::string key();
  /// A noun not drawn before for this kind; pairs such as "amber-cabin" once half of them are used.
  std::string noun(const std::string& kind);
  /// Five capital letters.
  std::string variable();
  /// A number of exactly `count` digits, count <= 18.
  std::string digits(int count);
  /// A needle's value; style is "numbers" (7 digits), "words" (a pair) or "uuids".
  std::string value(const std::string& style);

 private:
  std::string fresh(const std::string& kind, const std::function<std::string()>& draw);
  std::string pair();

  Random& random_;
  std::set<std::pair<std::string, std::string>> used_;
};

}  // namespace freekv::eval
