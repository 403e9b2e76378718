// A suite: samples made from a seed or read from a file, and how their answers are scored.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "eval/haystack.hpp"

namespace freekv::eval {

/// One question about a sample's document; every turn is asked by itself.
struct Turn {
  std::string question;
  /// What the answer begins with where no chat template says that an answer is due (raw format).
  std::string answer_start = {};
  /// A right answer, where there is one: what the room for answers is measured by.
  std::string answer = {};
  /// What score() looks for; each suite says in which form.
  std::vector<std::string> references = {};
};

struct Sample {
  std::string id;
  std::string document;  // may be empty
  std::vector<Turn> turns;
};

struct SampleRequest {
  uint64_t seed = 0;
  int64_t index = 0;
  int64_t context = 0;  // most tokens of document, question and answer
  const TokenCounter& count;
};

struct Score {
  double value = 0;    // 0 to 1
  bool exact = false;  // nothing missing, nothing wrong
};

class Suite {
 public:
  virtual ~Suite() = default;
  /// "chain", "ruler/niah-single".
  virtual std::string name() const = 0;
  /// The options and files that change its samples, for telling results apart; may be empty.
  virtual std::string settings() const = 0;
  /// How many different samples there are.
  virtual int64_t size() const { return std::numeric_limits<int64_t>::max(); }
  /// The same request gives the same sample on every machine. Throws Error(kInvalidArgument) when
  /// the context is too small.
  virtual Sample make(const SampleRequest& request) const = 0;
  virtual Score score(const Turn& turn, std::string_view answer) const = 0;
};

/// What suites can be given.
struct SuiteOptions {
  std::shared_ptr<const Haystack> haystack;  // needed by all that make their samples
  int64_t entries = 40;                      // of a ledger
  int64_t records = 20;                      // of a copy-json sample
  int64_t questions = 1;                     // asked about one document, where several can be
};

using Suites = std::vector<std::unique_ptr<Suite>>;

/// "ruler" (all its tasks), "ruler/TASK", "chain", "math:FILE", ... Throws Error that lists what
/// there is, or that names the file, line and field.
Suites make_suites(const std::string& specification, const SuiteOptions& options);
/// True when a suite of this name takes its text from the haystack.
bool needs_haystack(const std::string& specification);

/// Tokens the document may take: the context less question, answer and the chat format's own.
int64_t document_tokens(const SampleRequest& request, const std::vector<Turn>& turns);
/// The opening and the haystack with the facts in it, as long as the request leaves room for.
std::string document_with(const Haystack& haystack, const std::string& opening,
                          const std::vector<std::string>& facts, const SampleRequest& request,
                          const std::vector<Turn>& turns, Random& random);
/// The stream of random draws of one sample.
Random sample_random(const Suite& suite, const SampleRequest& request);

}  // namespace freekv::eval
