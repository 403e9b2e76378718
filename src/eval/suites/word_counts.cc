// RULER's aggregation tasks: the most common words of a list, the most frequent of a coded text.
// RULER shows the model one solved example first; here the question stands alone.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/check.hpp"
#include "eval/names.hpp"
#include "eval/suites/suites.hpp"

namespace freekv::eval {
namespace {

class WordCounts : public RulerSuite {
 public:
  std::string settings() const override { return ""; }

  Sample make(const SampleRequest& request) const override {
    Sample sample;
    sample.id = fmt::format("{}", request.index);
    sample.turns.push_back(question(draw(request, 0).answers));
    const int64_t room = document_tokens(request, sample.turns);
    const int64_t size = fitting_amount(std::max<int64_t>(1, room / 8), room, [&](int64_t amount) {
      return request.count(document(draw(request, amount).words));
    });
    check_argument(size >= least_words(),
                   "a context of {} tokens holds {} words of {}, it must hold {}", request.context,
                   size, name(), least_words());
    sample.document = document(draw(request, size).words);
    return sample;
  }

 protected:
  struct Drawn {
    std::vector<std::string> words;  // in the document's order
    std::vector<std::string> answers;
  };
  /// About `size` words. The answers do not depend on the size.
  virtual Drawn draw(const SampleRequest& request, int64_t size) const = 0;
  virtual std::string document(const std::vector<std::string>& words) const = 0;
  virtual Turn question(const std::vector<std::string>& answers) const = 0;
  virtual int64_t least_words() const = 0;
};

/// 10 words 30 times each among words that come 3 times.
class CommonWords : public WordCounts {
 public:
  std::string name() const override { return "ruler/common-words"; }

 protected:
  static constexpr int kCommon = 10, kOften = 30, kSeldom = 3;
  int64_t least_words() const override { return kCommon * kOften + 10 * kSeldom; }

  Drawn draw(const SampleRequest& request, int64_t size) const override {
    Random random = sample_random(*this, request);
    Names names(random);
    Drawn drawn;
    for (int i = 0; i < kCommon; ++i) drawn.answers.push_back(names.noun("word"));
    for (const std::string& word : drawn.answers) {
      drawn.words.insert(drawn.words.end(), kOften, word);
    }
    for (int64_t left = size - kCommon * kOften; left > 0; left -= kSeldom) {
      drawn.words.insert(drawn.words.end(), kSeldom, names.key());
    }
    random.shuffle(drawn.words);
    drawn.words.resize(std::min(drawn.words.size(), static_cast<size_t>(size)));
    return drawn;
  }

  std::string document(const std::vector<std::string>& words) const override {
    std::string text =
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize the ones that appear most often.\n";
    for (size_t i = 0; i < words.size(); ++i) text += fmt::format("{}. {} ", i + 1, words[i]);
    text.pop_back();
    return text;
  }

  Turn question(const std::vector<std::string>& answers) const override {
    Turn turn;
    turn.question = fmt::format("What are the {} most common words in the above list?", kCommon);
    turn.answer_start =
        fmt::format("The top {} words that appear most often in the list are:", kCommon);
    turn.answer = fmt::format("{} {}.", turn.answer_start, fmt::join(answers, ", "));
    turn.references = answers;
    return turn;
  }
};

/// Made-up words whose frequencies fall with the square of their rank; the first is the dots.
class FrequentWords : public WordCounts {
 public:
  std::string name() const override { return "ruler/frequent-words"; }

 protected:
  static constexpr int kAsked = 3, kWords = 200;
  int64_t least_words() const override { return 100; }

  Drawn draw(const SampleRequest& request, int64_t size) const override {
    Random random = sample_random(*this, request);
    std::vector<std::string> vocabulary = {"..."};
    std::set<std::string> used;
    while (vocabulary.size() < kWords) {
      std::string word;
      for (int i = 0; i < 6; ++i) word += static_cast<char>('a' + random.below(26));
      if (used.insert(word).second) vocabulary.push_back(word);
    }
    Drawn drawn;
    drawn.answers.assign(vocabulary.begin() + 1, vocabulary.begin() + 1 + kAsked);
    constexpr double kZeta2 = 1.6449340668482264;
    for (size_t rank = 1; rank <= vocabulary.size(); ++rank) {
      const double share = 1 / (kZeta2 * static_cast<double>(rank * rank));
      const auto times = static_cast<size_t>(share * static_cast<double>(size));
      drawn.words.insert(drawn.words.end(), times, vocabulary[rank - 1]);
    }
    random.shuffle(drawn.words);
    return drawn;
  }

  std::string document(const std::vector<std::string>& words) const override {
    return fmt::format(
        "Read the following coded text and track the frequency of each coded word. Find the three "
        "most frequently appeared coded words. {}",
        fmt::join(words, " "));
  }

  Turn question(const std::vector<std::string>& answers) const override {
    Turn turn;
    turn.question =
        "Do not provide any explanation. Please ignore the dots '....'. What are the three most "
        "frequently appeared words in the above coded text?";
    turn.answer_start =
        "According to the coded text above, the three most frequently appeared words are:";
    turn.answer = fmt::format("{} {}.", turn.answer_start, fmt::join(answers, ", "));
    turn.references = answers;
    return turn;
  }
};

}  // namespace

void add_word_counts(Suites& suites) {
  suites.push_back(std::make_unique<CommonWords>());
  suites.push_back(std::make_unique<FrequentWords>());
}

}  // namespace freekv::eval
