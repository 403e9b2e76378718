// LongGenBench: long texts in numbered parts (diary weeks, floors, ...) with instructions that
// particular parts must follow. The benchmark asks a model whether a part follows its instruction;
// here it counts as followed when the part has every content word of it, so scores compare methods
// with each other, not with published ones.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "eval/random.hpp"
#include "eval/records.hpp"
#include "eval/scoring.hpp"
#include "eval/suites/suites.hpp"
#include "io/quote.hpp"

namespace freekv::eval {
namespace {

constexpr std::string_view kSeparator = "#*#";

/// Lower-case words without those that only join others.
std::vector<std::string> content_words(std::string_view text) {
  constexpr std::array<std::string_view, 12> kJoining = {
      "a", "an", "the", "in", "on", "of", "at", "to", "and", "my", "with", "yourself"};
  std::vector<std::string> words(1);
  for (char c : lowercase(text)) {
    const bool part = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (part) {
      words.back() += c;
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  std::erase_if(words, [&](const std::string& word) {
    return word.empty() || std::find(kJoining.begin(), kJoining.end(), word) != kJoining.end();
  });
  return words;
}

/// "attending" and "attend" are the same here: a word is there when its beginning is.
bool mentions(const std::vector<std::string>& words, const std::string& word) {
  std::string stem = word;
  for (std::string_view ending : {"ing", "s"}) {
    if (stem.size() > ending.size() + 3 && stem.ends_with(ending)) {
      stem.resize(stem.size() - ending.size());
      break;
    }
  }
  return std::any_of(words.begin(), words.end(), [&](const std::string& each) {
    return each.compare(0, stem.size(), stem) == 0;
  });
}

/// The number of a part's heading, " Week 12 (March ...": 0 when there is none.
int64_t part_number(std::string_view part) {
  const size_t at = part.find_first_of("0123456789");
  int64_t number = 0;
  for (size_t i = at; i < std::min(part.size(), at + 6); ++i) {
    if (part[i] < '0' || part[i] > '9') break;
    number = 10 * number + (part[i] - '0');
  }
  return number;
}

class LongGenBench : public Suite {
 public:
  explicit LongGenBench(const std::string& file) {
    for (const Record& record : read_records(file)) {
      Task task{.prompt = record.text("prompt"), .parts = record.integer("number", 1, 100000)};
      for (const char* field : {"checks_once", "checks_range", "checks_periodic"}) {
        const auto& checks = record.field(field);
        if (!checks.is_object()) record.refuse(field, "an object of part numbers and texts");
        for (const auto& [part, text] : checks.items()) {
          const int64_t number = part_number(part);
          if (!text.is_string() || number < 1 || number > task.parts ||
              part != fmt::format("{}", number)) {
            record.refuse(field, fmt::format("numbers from 1 to {} with a text each, not {}",
                                             task.parts, freekv::quoted(part)));
          }
          task.checks.push_back(fmt::format("{}\t{}", number, text.get<std::string>()));
        }
      }
      mark_ = hash(fmt::format("{} {}", mark_, task.prompt));
      tasks_.push_back(std::move(task));
    }
  }

  std::string name() const override { return "longgenbench"; }
  std::string settings() const override { return fmt::format("file={:08x}", mark_ >> 32); }
  int64_t size() const override { return static_cast<int64_t>(tasks_.size()); }

  Sample make(const SampleRequest& request) const override {
    const Task& task = tasks_.at(static_cast<size_t>(request.index));
    Turn turn;
    turn.question = task.prompt;
    // First the number of parts, then "part<tab>instruction" for each instruction.
    turn.references = {fmt::format("{}", task.parts)};
    turn.references.insert(turn.references.end(), task.checks.begin(), task.checks.end());
    return {.id = fmt::format("{}", request.index), .document = "", .turns = {turn}};
  }

  /// The share of parts written and instructions followed; exact when that is all of them.
  Score score(const Turn& turn, std::string_view answer) const override {
    // The prompt ends with the heading of part 1, so an answer may begin inside it.
    std::map<int64_t, std::vector<std::string>> parts;
    bool first = true;
    for (const std::string& part : split(answer, kSeparator)) {
      const int64_t number = first ? 1 : part_number(part);
      if (!part.empty()) parts.insert_or_assign(number, content_words(part));
      first = false;
    }
    const int64_t count = std::stoll(turn.references.front());
    int64_t done = 0;
    for (const auto& [number, words] : parts) done += number >= 1 && number <= count;
    for (size_t i = 1; i < turn.references.size(); ++i) {
      const std::string& check = turn.references[i];
      const size_t tab = check.find('\t');
      const auto part = parts.find(std::stoll(check.substr(0, tab)));
      if (part == parts.end()) continue;
      const auto wanted = content_words(check.substr(tab + 1));
      done += std::all_of(wanted.begin(), wanted.end(),
                          [&](const std::string& word) { return mentions(part->second, word); });
    }
    const auto all = count + static_cast<int64_t>(turn.references.size()) - 1;
    return {static_cast<double>(done) / static_cast<double>(all), done == all};
  }

 private:
  struct Task {
    std::string prompt;
    int64_t parts = 0;
    std::vector<std::string> checks = {};
  };
  std::vector<Task> tasks_;
  uint64_t mark_ = 0;
};

}  // namespace

Suites longgenbench(const std::string& file) { return single<LongGenBench>(file); }

}  // namespace freekv::eval
