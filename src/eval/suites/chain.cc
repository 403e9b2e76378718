// Rooms and doors told in any order: follow the doors from one room to the end. Every step of the
// answer is a new search of the document, so one lost page ends the path.
#include <fmt/format.h>

#include <algorithm>

#include "eval/names.hpp"
#include "eval/scoring.hpp"
#include "eval/suites/suites.hpp"

namespace freekv::eval {
namespace {

class Chain : public Suite {
 public:
  explicit Chain(const SuiteOptions& options) : haystack_(options.haystack) {}

  std::string name() const override { return "chain"; }
  std::string settings() const override { return fmt::format("haystack={}", haystack_->mark()); }

  Sample make(const SampleRequest& request) const override {
    constexpr int kDoors = 24;
    Random random = sample_random(*this, request);
    Names names(random);
    const auto asked = static_cast<int>(random.between(12, 20));
    std::vector<std::string> path, facts;
    for (int length : {asked, kDoors - asked}) {
      std::vector<std::string> rooms;
      for (int i = 0; i <= length; ++i) rooms.push_back(names.noun("room"));
      for (size_t i = 1; i < rooms.size(); ++i) {
        facts.push_back(fmt::format("Room {} leads to room {}.", rooms[i - 1], rooms[i]));
      }
      if (path.empty()) path = std::move(rooms);
    }
    random.shuffle(facts);
    Turn turn;
    turn.question = fmt::format(
        "Start in room {} and follow the doors to the end. Which rooms do you pass, in order?",
        path.front());
    turn.answer_start = "The path is:";
    turn.answer = fmt::format("The path is: {}.", fmt::join(path, " -> "));
    turn.references = std::move(path);
    Sample sample{.id = fmt::format("{}", request.index), .document = "", .turns = {turn}};
    sample.document = document_with(*haystack_, "", facts, request, sample.turns, random);
    return sample;
  }

  /// The share of the path that is right from its beginning on.
  Score score(const Turn& turn, std::string_view answer) const override {
    std::string_view text = trimmed(answer);
    if (text.substr(0, turn.answer_start.size()) == turn.answer_start) {
      text.remove_prefix(turn.answer_start.size());
    }
    if (!text.empty() && text.back() == '.') text.remove_suffix(1);
    const std::vector<std::string> rooms = split(text, "->");
    const auto& path = turn.references;
    const auto end = std::mismatch(path.begin(), path.end(), rooms.begin(), rooms.end()).first;
    return {static_cast<double>(end - path.begin()) / static_cast<double>(path.size()),
            rooms == path};
  }

 private:
  std::shared_ptr<const Haystack> haystack_;
};

}  // namespace

Suites chain(const SuiteOptions& options) { return single<Chain>(options); }

}  // namespace freekv::eval
