// One line of a results file: what one method did with one sample.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "eval/answer.hpp"

namespace freekv::eval {

struct ResultRow {
  // --- what was run; together they tell a row from all others ------------------------------------
  std::string model;  // its name, and the rope options given
  std::string suite;
  std::string settings;  // of the suite
  std::string format;    // "chat" or "raw"
  std::string sampling;  // "greedy" or what differs from it
  int64_t context = 0;
  int64_t sample = 0;
  uint64_t seed = 0;
  std::string policy;  // NAME or NAME:key=value,...
  int64_t budget = 0;  // 0 where the policy has none
  int64_t sink = 0;
  int64_t window = 0;
  int64_t page = 0;
  std::string kv_type;
  std::string backend;
  int64_t answer_limit = 0;  // tokens; 0: by the expected answer
  int64_t repeats = 1;       // answers a turn, k of avg@k

  // --- what came of it --------------------------------------------------------------------------
  std::string id;  // the suite's name of the sample
  int64_t prompt_tokens = 0;
  double score = 0;                               // mean over turns and repeats
  double exact = 0;                               // the share of exact answers
  std::vector<std::vector<std::string>> answers;  // [turn][repeat]
  std::vector<std::vector<double>> scores;        // [turn][repeat]
  Agreement agreement;
  AnswerCost cost;           // of all turns and repeats
  int64_t layers = 0;        // of the model
  int64_t dense_layers = 0;  // of them without retrieval
  double read_seconds = 0;   // the dense reading that all methods share

  /// Equal for two rows of the same run.
  std::string key() const;
  /// One line of JSON without a line break. Bytes of an answer that are no UTF-8 become U+FFFD.
  std::string json() const;
};

/// Throws Error(kParse) naming file, line and field.
ResultRow parse_row(std::string_view line, const std::string& path, size_t number);

}  // namespace freekv::eval
