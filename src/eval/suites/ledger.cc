// Numbered entries told in any order, to be written out in order: long generations of which every
// line is a search. 16K generated tokens are about 2,000 entries.
#include <fmt/format.h>

#include <algorithm>

#include "core/check.hpp"
#include "eval/names.hpp"
#include "eval/scoring.hpp"
#include "eval/suites/suites.hpp"
#include "eval/words.hpp"

namespace freekv::eval {
namespace {

class Ledger : public Suite {
 public:
  explicit Ledger(const SuiteOptions& options)
      : haystack_(options.haystack), entries_(options.entries), questions_(options.questions) {
    check_argument(entries_ >= 1 && entries_ <= 100000, "entries is {}, must be 1 to 100000",
                   entries_);
    check_argument(questions_ <= entries_, "questions is {}, a ledger of {} entries takes {}",
                   questions_, entries_, entries_);
  }

  std::string name() const override { return "ledger"; }
  std::string settings() const override {
    return fmt::format("haystack={},questions={},entries={}", haystack_->mark(), questions_,
                       entries_);
  }

  Sample make(const SampleRequest& request) const override {
    Random random = sample_random(*this, request);
    Names names(random);
    // All numbers have as many digits, two where that is enough.
    int64_t low = 10;
    while (9 * low < entries_) low *= 10;
    const int64_t first = random.between(low, 10 * low - entries_);
    const bool unique = entries_ < static_cast<int64_t>(nouns().size()) / 2;
    std::vector<std::string> lines, facts;
    for (int64_t i = 0; i < entries_; ++i) {
      const std::string noun = unique ? names.noun("ledger") : std::string(random.choice(nouns()));
      lines.push_back(fmt::format("{}: {} {}", first + i, noun, random.between(10, 99)));
      facts.push_back(fmt::format("Ledger entry {}.", lines.back()));
    }
    random.shuffle(facts);

    Sample sample;
    sample.id = fmt::format("{}", request.index);
    for (int64_t q = 0; q < questions_; ++q) {
      const int64_t begin = q * entries_ / questions_, end = (q + 1) * entries_ / questions_;
      Turn turn;
      turn.question = fmt::format("Write out the ledger entries {} to {} in order.", first + begin,
                                  first + end - 1);
      turn.references.assign(lines.begin() + begin, lines.begin() + end);
      turn.answer = fmt::format("{}", fmt::join(turn.references, "\n"));
      sample.turns.push_back(std::move(turn));
    }
    sample.document = document_with(*haystack_, "", facts, request, sample.turns, random);
    return sample;
  }

  /// The share of the lines that the answer has, in order.
  Score score(const Turn& turn, std::string_view answer) const override {
    const std::vector<std::string> lines = split(trimmed(answer), "\n");
    const size_t found = common_subsequence(turn.references, lines);
    return {static_cast<double>(found) / static_cast<double>(turn.references.size()),
            lines == turn.references};
  }

 private:
  std::shared_ptr<const Haystack> haystack_;
  int64_t entries_;
  int64_t questions_;
};

}  // namespace

Suites ledger(const SuiteOptions& options) { return single<Ledger>(options); }

}  // namespace freekv::eval
