// Answers in the making: each stops where it needs a decode step, so that several of one engine
// take their steps together.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/sampler.hpp"
#include "eval/answer.hpp"

namespace freekv::eval {

/// One answer, generated freely or first along a dense answer; what it refers to outlives it.
/// start(), then look() and a decode step of sequence() with token() in turn.
class AnswerRun {
 public:
  /// See answer_freely().
  AnswerRun(Engine& engine, const Question& question, DenseAnswer* record = nullptr,
            size_t logit_bytes = 0);
  /// See answer_and_compare().
  AnswerRun(Engine& engine, const Question& question, const DenseAnswer& dense);

  enum class State {
    kStart,  // start() is due: at the beginning, and where it parts from the dense answer
    kStep,   // token() is to be decoded
    kDone,
  };
  /// Opens the sequence and reads the prompt. Where it throws, it can be called again.
  void start();
  /// Makes of the sequence's logits what comes next. Touches nothing that other runs do.
  State look();

  Sequence& sequence() { return *sequence_; }
  int32_t token() const { return token_; }
  /// The step of token() is done; `seconds` are this answer's share of it.
  void stepped(double seconds);
  /// After kDone: the answer. Lets go of the sequence.
  Answer take();
  /// How close it came along the dense answer.
  const Agreement& agreement() const { return agreement_; }

 private:
  State follow();
  State generate();
  State step(int32_t token);

  Engine* engine_;
  Question question_;
  const DenseAnswer* dense_ = nullptr;  // while it is followed
  DenseAnswer* record_ = nullptr;
  size_t logit_bytes_ = 0;

  std::unique_ptr<Sequence> sequence_;
  std::optional<Sampler> sampler_;
  std::vector<int32_t> tokens_;  // of the answer
  int32_t token_ = 0;
  bool same_ = true;  // as yet its own choices are the dense answer's
  AnswerCost cost_;
  Agreement agreement_;
};

/// Brings all runs of an engine to their ends, at most `parallel` at a time (no more than
/// options().max_batch), and calls done(i, answer) when run i is there. Answers do not depend on
/// `parallel`; the seconds of a step are divided among those that took it. Fewer go on together
/// where there is no memory for more. Throws Error(kCancelled) when *cancel becomes true.
void run_together(Engine& engine, std::span<AnswerRun> runs, size_t parallel,
                  const std::atomic<bool>* cancel,
                  const std::function<void(size_t run, Answer answer)>& done);

}  // namespace freekv::eval
