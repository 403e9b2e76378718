// Samples under every method: read once densely, asked of each.
#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <vector>

#include "eval/result_row.hpp"
#include "eval/suite.hpp"

namespace freekv::eval {

struct EvaluationOptions {
  bool chat = true;                      // the model's chat format, or the text as it is
  int64_t answer_limit = 0;              // tokens of an answer; 0: by the expected answer
  int64_t repeats = 1;                   // answers a turn, each with its own sampler seed
  SamplingOptions sampling;              // its seed is the run's
  size_t logit_bytes = size_t{1} << 30;  // dense logits kept for comparison, all turns of a sample
  size_t query_bytes = size_t{1} << 30;  // queries kept of what is read, of all samples of a group
  size_t parallel = 1;                   // answers that one engine works on together
  const std::atomic<bool>* cancel = nullptr;
};

/// The row without its outcome: what tells it from others. Its backend is the method's, behind that
/// of `dense`, which reads the prompts, where they differ ("cuda+cpu").
ResultRow row_identity(const Engine& dense, const Engine& method, const Suite& suite,
                       const SampleRequest& request, const EvaluationOptions& options);

struct SampleJob {
  SampleRequest request;
  std::vector<Engine*> methods;
};
/// Several samples at a time, whose answers take their decode steps together: calls emit(j, i, row)
/// when method i of job j is done with all turns of its sample. Samples stay in memory, read, until
/// all are done; `dense` needs a batch of twice the jobs on a device, where what is read counts as
/// open. Rows are those of one sample at a time in all but seconds: a step's are divided among the
/// answers that took it. Throws kOutOfMemory where fewer jobs may find room.
void evaluate_samples(Engine& dense, std::span<const SampleJob> jobs, const Suite& suite,
                      const EvaluationOptions& options,
                      const std::function<void(size_t job, size_t method, const ResultRow&)>& emit);

/// One sample. Calls emit(i, row) when method i is done with all turns of the sample. `dense` runs
/// policy full; a method that does too may be the same engine. All engines have the same model and
/// KV type. Throws Error(kCancelled) when *cancel becomes true; rows emitted by then are whole.
void evaluate_sample(Engine& dense, std::span<Engine* const> methods, const Suite& suite,
                     const SampleRequest& request, const EvaluationOptions& options,
                     const std::function<void(size_t method, const ResultRow& row)>& emit);

/// Tokens of a text as this engine's tokenizer makes them.
TokenCounter token_counter(const Engine& engine);

}  // namespace freekv::eval
