// One answer by one method: generated freely, or along another method's tokens to compare the two.
// Several at a time: answer_run.hpp.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "freekv/engine.hpp"

namespace freekv::eval {

/// What dense attention answered, and its logits after each decode step, for comparison.
struct DenseAnswer {
  std::vector<int32_t> tokens;
  bool ended = false;  // by an end token; it is not among the tokens
  int64_t vocab = 0;
  std::vector<float> logits;  // [compared, vocab]; step i reads tokens[i]
  int64_t compared() const { return vocab > 0 ? static_cast<int64_t>(logits.size()) / vocab : 0; }
};

/// How close a method's next-token distributions are to dense attention's on the same tokens. The
/// first token of an answer comes from the prefill, which is exact for all, and does not count.
struct Agreement {
  double kl_sum = 0;     // of KL(dense || method), nats
  int64_t compared = 0;  // decode steps
  int64_t agreed = 0;    // of them with the same likeliest token

  void add(const Agreement& other);
};

/// What an answer cost.
struct AnswerCost {
  int64_t generated_tokens = 0;
  int64_t decode_steps = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
  RetrievalStats stats;
  MemoryStats memory;

  void add(const AnswerCost& other);
};

struct Answer {
  std::string text;
  AnswerCost cost;
};

struct Question {
  std::span<const int32_t> prompt;
  int64_t max_tokens = 0;
  SamplingOptions sampling;
  const Sequence* like = nullptr;  // see Engine::prefill
  const std::atomic<bool>* cancel = nullptr;
};

/// Generates freely. With `dense`, it is filled with tokens and logits, of as many steps as
/// `logit_bytes` hold. Throws Error(kCancelled) when *cancel becomes true.
Answer answer_freely(Engine& engine, const Question& question, DenseAnswer* dense = nullptr,
                     size_t logit_bytes = 0);

/// Generates freely, and compares along the dense answer. Greedy answers take one pass for as long
/// as the method's choices are those of the dense answer, which they then equal.
Answer answer_and_compare(Engine& engine, const Question& question, const DenseAnswer& dense,
                          Agreement& agreement);

}  // namespace freekv::eval
