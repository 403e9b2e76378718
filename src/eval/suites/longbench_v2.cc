// LongBench v2: questions with four choices about long contexts.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "eval/random.hpp"
#include "eval/records.hpp"
#include "eval/scoring.hpp"
#include "eval/suites/suites.hpp"

namespace freekv::eval {
namespace {

/// The letter after "The correct answer is", with or without brackets; 0 when there is none.
char chosen(std::string_view answer) {
  std::string text(answer);
  std::erase(text, '*');
  constexpr std::string_view kPhrase = "The correct answer is";
  const size_t at = text.find(kPhrase);
  if (at == std::string::npos) return 0;
  const size_t letter = text.find_first_not_of(" (", at + kPhrase.size());
  if (letter == std::string::npos || text[letter] < 'A' || text[letter] > 'D') return 0;
  // "Definitely ..." is no choice of D.
  const bool word =
      letter + 1 < text.size() && std::isalnum(static_cast<unsigned char>(text[letter + 1]));
  return word ? '\0' : text[letter];
}

class LongBenchV2 : public Suite {
 public:
  explicit LongBenchV2(const std::string& file) {
    for (const Record& record : read_records(file)) {
      Question question{
          record.text("_id"), record.text("context"), record.text("question"), {}, ""};
      for (const char* choice : {"A", "B", "C", "D"}) {
        question.choices.push_back(record.text(std::string("choice_") + choice));
      }
      question.answer = record.text("answer");
      if (question.answer.size() != 1 || question.answer < "A" || question.answer > "D") {
        record.refuse("answer", "A, B, C or D");
      }
      mark_ = hash(fmt::format("{} {} {}", mark_, question.id, question.answer));
      questions_.push_back(std::move(question));
    }
  }

  std::string name() const override { return "longbench-v2"; }
  std::string settings() const override { return fmt::format("file={:08x}", mark_ >> 32); }
  int64_t size() const override { return static_cast<int64_t>(questions_.size()); }

  Sample make(const SampleRequest& request) const override {
    const Question& question = questions_.at(static_cast<size_t>(request.index));
    Turn turn;
    turn.question = fmt::format(
        "What is the correct answer to this question: {}\nChoices:\n(A) {}\n(B) {}\n(C) {}\n(D) "
        "{}\n\nFormat your response as follows: \"The correct answer is (insert answer here)\".",
        question.text, question.choices[0], question.choices[1], question.choices[2],
        question.choices[3]);
    turn.answer_start = "The correct answer is";
    turn.answer = fmt::format("The correct answer is ({})", question.answer);
    turn.references = {question.answer};
    Sample sample{.id = question.id, .document = "", .turns = {turn}};
    const auto document = [&](std::string_view context) {
      return fmt::format(
          "Please read the following text and answer the question below.\n\n<text>\n{}\n</text>",
          trimmed(context));
    };
    const int64_t room = document_tokens(request, sample.turns);
    sample.document = document(question.context);
    if (request.count(sample.document) <= room) return sample;
    // A longer context loses its middle, as in the benchmark's own script.
    const auto size = static_cast<int64_t>(question.context.size());
    const auto cut = [&](int64_t bytes) {
      return document(without_middle(question.context, std::min(bytes, size)));
    };
    const int64_t bytes = fitting_amount(
        std::min(size, 4 * room), room, [&](int64_t amount) { return request.count(cut(amount)); });
    sample.document = cut(bytes);
    return sample;
  }

  Score score(const Turn& turn, std::string_view answer) const override {
    const bool right = chosen(answer) == turn.references.front()[0];
    return {right ? 1.0 : 0.0, right};
  }

 private:
  struct Question {
    std::string id, context, text;
    std::vector<std::string> choices;
    std::string answer;
  };

  /// `bytes` of the text, half of them from each end, cut between UTF-8 characters.
  static std::string without_middle(std::string_view text, int64_t bytes) {
    const auto continues = [&](size_t at) {
      return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
    };
    size_t head = static_cast<size_t>(bytes) / 2;
    size_t tail = text.size() - static_cast<size_t>(bytes) / 2;
    while (head > 0 && continues(head)) --head;
    while (continues(tail)) ++tail;
    return std::string(text.substr(0, head)) + std::string(text.substr(tail));
  }

  std::vector<Question> questions_;
  uint64_t mark_ = 0;
};

}  // namespace

Suites longbench_v2(const std::string& file) { return single<LongBenchV2>(file); }

}  // namespace freekv::eval
