// The suites there are, a file each; suite.cc lists them by name.
#pragma once

#include <string>

#include "eval/scoring.hpp"
#include "eval/suite.hpp"

namespace freekv::eval {

Suites ruler(const SuiteOptions& options);
Suites chain(const SuiteOptions& options);
Suites ledger(const SuiteOptions& options);
Suites copy_json(const SuiteOptions& options);
Suites longbench_v2(const std::string& file);
Suites longgenbench(const std::string& file);
Suites math(const std::string& file);
Suites aime(const std::string& file);

/// RULER's score: the share of the references that the answer names.
class RulerSuite : public Suite {
 public:
  Score score(const Turn& turn, std::string_view answer) const override {
    const double found = string_match(answer, turn.references);
    return {found, found == 1};
  }
};

// RULER's groups of tasks.
void add_needles(const SuiteOptions& options, Suites& suites);
void add_variable_tracking(const SuiteOptions& options, Suites& suites);
void add_word_counts(Suites& suites);

/// One suite as a list.
template <typename S, typename... Args>
Suites single(Args&&... args) {
  Suites suites;
  suites.push_back(std::make_unique<S>(std::forward<Args>(args)...));
  return suites;
}

}  // namespace freekv::eval
