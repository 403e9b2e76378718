// RULER (Hsieh et al., 2024): its tasks' wording and its string match, one suite a task.
#include "eval/suites/suites.hpp"

namespace freekv::eval {

Suites ruler(const SuiteOptions& options) {
  Suites suites;
  add_needles(options, suites);
  add_variable_tracking(options, suites);
  add_word_counts(suites);
  return suites;
}

}  // namespace freekv::eval
