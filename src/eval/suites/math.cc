// Competition problems with one answer in a box: MATH and AIME files.
#include "eval/random.hpp"
#include "eval/records.hpp"
#include "eval/scoring.hpp"
#include "eval/suites/suites.hpp"

#include <fmt/format.h>

namespace freekv::eval {
namespace {

class BoxedAnswers : public Suite {
 public:
  /// `identifier` is the field that names a problem; problems without one are numbered.
  BoxedAnswers(std::string name, const std::string& file, const std::string& identifier)
      : name_(std::move(name)) {
    const std::vector<Record> records = read_records(file);
    for (const Record& record : records) {
      Problem problem{record.has(identifier) ? record.text_or_number(identifier)
                                             : fmt::format("{}", problems_.size()),
                      record.text("problem"), record.text_or_number("answer")};
      if (normalised_math(problem.answer).empty()) record.refuse("answer", "an answer");
      problems_.push_back(std::move(problem));
      mark_ = hash(fmt::format("{} {} {}", mark_, problems_.back().text, problems_.back().answer));
    }
  }

  std::string name() const override { return name_; }
  std::string settings() const override { return fmt::format("file={:08x}", mark_ >> 32); }
  int64_t size() const override { return static_cast<int64_t>(problems_.size()); }

  Sample make(const SampleRequest& request) const override {
    const Problem& problem = problems_.at(static_cast<size_t>(request.index));
    Turn turn;
    turn.question = problem.text +
                    "\n\nPlease reason step by step, and put your final answer within \\boxed{}.";
    turn.references = {problem.answer};
    return {.id = problem.id, .document = "", .turns = {turn}};
  }

  Score score(const Turn& turn, std::string_view answer) const override {
    const bool right = same_math(boxed_answer(answer), turn.references.front());
    return {right ? 1.0 : 0.0, right};
  }

 private:
  struct Problem {
    std::string id, text, answer;
  };
  std::string name_;
  std::vector<Problem> problems_;
  uint64_t mark_ = 0;
};

}  // namespace

Suites math(const std::string& file) { return single<BoxedAnswers>("math", file, "unique_id"); }
Suites aime(const std::string& file) { return single<BoxedAnswers>("aime", file, "id"); }

}  // namespace freekv::eval
