// RULER's needles in a haystack: facts about keys, some of them asked for.
#include <fmt/format.h>

#include <algorithm>

#include "eval/names.hpp"
#include "eval/suites/suites.hpp"

namespace freekv::eval {
namespace {

struct NeedleTask {
  std::string name;
  std::string style = "numbers";  // of the values
  int keys = 1;
  int values = 1;   // of each key
  int queried = 1;  // keys asked for in one question
};

/// "a", "a, and b", "a, b, and c", as RULER joins them.
std::string joined(const std::vector<std::string>& items) {
  std::string text;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += i + 1 == items.size() ? ", and " : ", ";
    text += items[i];
  }
  return text;
}

class Needles : public RulerSuite {
 public:
  Needles(NeedleTask task, const SuiteOptions& options)
      : task_(std::move(task)), haystack_(options.haystack), questions_(options.questions) {}

  std::string name() const override { return "ruler/" + task_.name; }
  std::string settings() const override {
    return fmt::format("haystack={},questions={}", haystack_->mark(), questions_);
  }

  Sample make(const SampleRequest& request) const override {
    Random random = sample_random(*this, request);
    Names names(random);
    struct Key {
      std::string name;
      std::vector<std::string> values;  // in the document's order
    };
    std::vector<Key> keys(static_cast<size_t>(task_.keys));
    std::vector<size_t> order;
    for (size_t k = 0; k < keys.size(); ++k) {
      keys[k].name = names.key();
      order.insert(order.end(), static_cast<size_t>(task_.values), k);
    }
    random.shuffle(order);
    std::vector<std::string> facts;
    for (size_t k : order) {
      keys[k].values.push_back(names.value(task_.style));
      facts.push_back(fmt::format("One of the special magic {} for {} is: {}.", task_.style,
                                  keys[k].name, keys[k].values.back()));
    }

    const std::string one = task_.style.substr(0, task_.style.size() - 1);
    const bool plural = task_.values * task_.queried > 1;
    const std::string what = plural ? task_.style : one;
    Sample sample;
    sample.id = fmt::format("{}", request.index);
    const int64_t questions = std::min<int64_t>(questions_, task_.keys / task_.queried);
    for (int64_t q = 0; q < questions; ++q) {
      std::vector<std::string> asked;
      Turn turn;
      for (int i = 0; i < task_.queried; ++i) {
        const Key& key = keys[static_cast<size_t>(q * task_.queried + i)];
        asked.push_back(key.name);
        turn.references.insert(turn.references.end(), key.values.begin(), key.values.end());
      }
      turn.question =
          fmt::format("What {} the special magic {} for {} mentioned in the provided text?",
                      plural ? "are all" : "is", what, joined(asked));
      turn.answer_start =
          fmt::format("The special magic {} for {} mentioned in the provided text {}", what,
                      joined(asked), plural ? "are" : "is");
      turn.answer = fmt::format("{} {}.", turn.answer_start, fmt::join(turn.references, ", "));
      sample.turns.push_back(std::move(turn));
    }
    const std::string opening = fmt::format(
        "{} special magic {} {} hidden within the following text. Make sure to memorize it. I will "
        "quiz you about the {} afterwards.\n",
        plural ? "Some" : "A", what, plural ? "are" : "is", what);
    sample.document = document_with(*haystack_, opening, facts, request, sample.turns, random);
    return sample;
  }

 private:
  NeedleTask task_;
  std::shared_ptr<const Haystack> haystack_;
  int64_t questions_;
};

}  // namespace

void add_needles(const SuiteOptions& options, Suites& suites) {
  // 24 keys, as the bundled model was trained with; RULER's own multi-key begins at 4.
  for (const NeedleTask& task : std::initializer_list<NeedleTask>{
           {.name = "niah-single"},
           {.name = "niah-multi-key", .keys = 24},
           {.name = "niah-multi-key-words", .style = "words", .keys = 24},
           {.name = "niah-multi-key-uuids", .style = "uuids", .keys = 24},
           {.name = "niah-multi-value", .values = 4},
           {.name = "niah-multi-query", .keys = 4, .queried = 4}}) {
    suites.push_back(std::make_unique<Needles>(task, options));
  }
}

}  // namespace freekv::eval
