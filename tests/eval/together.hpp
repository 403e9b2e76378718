// Samples evaluated together give the rows of one at a time, on every backend.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "../engine/tiny_model.hpp"
#include "eval/evaluate.hpp"
#include "eval/test_text.hpp"

namespace freekv::eval {

/// Without what depends on time.
inline std::string timeless(ResultRow row) {
  row.read_seconds = row.cost.prefill_seconds = row.cost.decode_seconds = 0;
  row.cost.stats.wait_ns = 0;
  return row.json();
}

/// Rows of three samples of two turns, sorted, `parallel` at a time.
inline std::vector<std::string> rows_together(const std::string& backend, size_t parallel,
                                              EvaluationOptions evaluation) {
  const TemporaryModel model(tiny_model_records(shape_for(backend)));
  EngineOptions options = options_for(backend, model);
  options.policy = "full";
  options.budget = 96;
  options.max_batch = static_cast<int>(parallel);
  EngineOptions reader = options;
  reader.max_batch *= 2;
  Engine dense(reader);
  options.policy = "freekv";
  Engine freekv(options, nullptr, &dense);
  options.policy = "quest";
  Engine quest(options, nullptr, &dense);

  SuiteOptions suite_options;
  suite_options.haystack = test_haystack();
  suite_options.entries = 6;
  suite_options.questions = 2;
  const auto suites = make_suites("ledger", suite_options);
  const TokenCounter count = token_counter(dense);
  evaluation.parallel = parallel;
  std::vector<SampleJob> jobs;
  for (const int64_t index : {0, 1, 2}) {
    jobs.push_back({{.seed = 1, .index = index, .context = 480, .count = count}, {}});
    // The second sample is done with some of the methods.
    jobs.back().methods =
        index == 1 ? std::vector<Engine*>{&quest} : std::vector<Engine*>{&dense, &freekv, &quest};
  }
  std::vector<std::string> rows;
  const auto emit = [&](size_t job, size_t method, const ResultRow& row) {
    EXPECT_EQ(row.sample, jobs[job].request.index);
    EXPECT_EQ(row.policy, jobs[job].methods[method]->options().policy);
    rows.push_back(timeless(row));
  };
  for (size_t at = 0; at < jobs.size(); at += parallel) {
    const auto group = std::span(jobs).subspan(at, std::min(parallel, jobs.size() - at));
    evaluate_samples(
        dense, group, *suites.front(), evaluation,
        [&](size_t job, size_t method, const ResultRow& row) { emit(at + job, method, row); });
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

inline void expect_the_rows_of_one_at_a_time(const std::string& backend) {
  EvaluationOptions greedy;
  greedy.answer_limit = 24;
  EvaluationOptions sampled = greedy;
  sampled.sampling.temperature = 1;
  sampled.repeats = 2;
  for (const EvaluationOptions& evaluation : {greedy, sampled}) {
    const auto alone = rows_together(backend, 1, evaluation);
    EXPECT_EQ(alone.size(), 7u);
    for (const size_t parallel : {2, 3, 8}) {
      EXPECT_EQ(rows_together(backend, parallel, evaluation), alone) << parallel << " at a time";
    }
  }
}

}  // namespace freekv::eval
