// RULER's variable tracking: chains of assignments, all names of one value asked for.
#include <fmt/format.h>

#include "eval/names.hpp"
#include "eval/suites/suites.hpp"

namespace freekv::eval {
namespace {

constexpr int kHops = 4;

class VariableTracking : public RulerSuite {
 public:
  VariableTracking(std::string name, int chains, const SuiteOptions& options)
      : name_(std::move(name)),
        chains_(chains),
        haystack_(options.haystack),
        questions_(options.questions) {}

  std::string name() const override { return "ruler/" + name_; }
  std::string settings() const override {
    return fmt::format("haystack={},questions={}", haystack_->mark(), questions_);
  }

  Sample make(const SampleRequest& request) const override {
    Random random = sample_random(*this, request);
    Names names(random);
    Sample sample;
    sample.id = fmt::format("{}", request.index);
    std::vector<size_t> order;  // which chain the next fact is of; a chain's own order stays
    std::vector<std::vector<std::string>> chains;
    for (size_t c = 0; c < static_cast<size_t>(chains_); ++c) {
      const std::string value = names.digits(5);
      std::vector<std::string> variables, facts;
      for (int i = 0; i <= kHops; ++i) {
        variables.push_back(names.variable());
        facts.push_back(i == 0 ? fmt::format("VAR {} = {}.", variables[0], value)
                               : fmt::format("VAR {} = VAR {}.", variables[static_cast<size_t>(i)],
                                             variables[static_cast<size_t>(i - 1)]));
      }
      order.insert(order.end(), facts.size(), c);
      chains.push_back(std::move(facts));
      if (static_cast<int64_t>(c) >= questions_) continue;
      Turn turn;
      turn.question = fmt::format(
          "Find all variables that are assigned the value {} in the text above.", value);
      turn.answer_start = fmt::format(
          "Answer: According to the chain(s) of variable assignment in the text above, {} "
          "variables "
          "are assigned the value {}, they are:",
          variables.size(), value);
      turn.answer = fmt::format("The variables that are assigned the value {} are: {}.", value,
                                fmt::join(variables, ", "));
      turn.references = std::move(variables);
      sample.turns.push_back(std::move(turn));
    }
    random.shuffle(order);
    std::vector<size_t> next(chains.size(), 0);
    std::vector<std::string> facts;
    for (size_t c : order) facts.push_back(chains[c][next[c]++]);

    const std::string opening =
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n";
    sample.document = document_with(*haystack_, opening, facts, request, sample.turns, random);
    return sample;
  }

 private:
  std::string name_;
  int chains_;
  std::shared_ptr<const Haystack> haystack_;
  int64_t questions_;
};

}  // namespace

void add_variable_tracking(const SuiteOptions& options, Suites& suites) {
  suites.push_back(std::make_unique<VariableTracking>("variable-tracking", 1, options));
  suites.push_back(std::make_unique<VariableTracking>("variable-tracking-3-chains", 3, options));
}

}  // namespace freekv::eval
