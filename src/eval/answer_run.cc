#include "eval/answer_run.hpp"

#include <algorithm>
#include <chrono>
#include <deque>

#include "core/thread_pool.hpp"
#include "eval/row_logits.hpp"

namespace freekv::eval {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool greedy(const SamplingOptions& sampling) {
  return sampling.temperature == 0 && sampling.repetition_penalty == 1;
}

bool cancelled(const std::atomic<bool>* cancel) { return cancel && cancel->load(); }

}  // namespace

AnswerRun::AnswerRun(Engine& engine, const Question& question, DenseAnswer* record,
                     size_t logit_bytes)
    : engine_(&engine), question_(question), record_(record), logit_bytes_(logit_bytes) {}

AnswerRun::AnswerRun(Engine& engine, const Question& question, const DenseAnswer& dense)
    : engine_(&engine), question_(question), dense_(&dense), same_(greedy(question.sampling)) {}

void AnswerRun::start() {
  cost_ = {};
  tokens_.clear();
  if (record_)
    *record_ = {.tokens = {}, .ended = false, .vocab = engine_->model().vocab, .logits = {}};
  sampler_.reset();
  if (!dense_) {
    sampler_.emplace(question_.sampling, engine_->model().vocab);
    for (int32_t token : question_.prompt) sampler_->accept(token);
  }
  // A second time in the same caches, whose policy need not look at the prompt again.
  auto sequence = std::move(sequence_);
  if (!sequence) {
    sequence = engine_->new_sequence(
        std::min<int64_t>(engine_->options().context,
                          static_cast<int64_t>(question_.prompt.size()) + question_.max_tokens));
  }
  const double start = now();
  engine_->prefill(
      *sequence, question_.prompt, [&](int64_t) { return !cancelled(question_.cancel); },
      question_.like);
  cost_.prefill_seconds = now() - start;
  sequence_ = std::move(sequence);
}

AnswerRun::State AnswerRun::look() { return dense_ ? follow() : generate(); }

AnswerRun::State AnswerRun::step(int32_t token) {
  token_ = token;
  return State::kStep;
}

void AnswerRun::stepped(double seconds) {
  cost_.decode_seconds += seconds;
  ++cost_.decode_steps;
}

AnswerRun::State AnswerRun::generate() {
  const auto logits = sequence_->logits();
  if (record_ && cost_.decode_steps > 0 &&
      (record_->logits.size() + logits.size()) * sizeof(float) <= logit_bytes_) {
    record_->logits.insert(record_->logits.end(), logits.begin(), logits.end());
  }
  const auto full = [&] { return static_cast<int64_t>(tokens_.size()) >= question_.max_tokens; };
  if (!full()) {
    const int32_t token = sampler_->sample(logits);
    if (!engine_->is_end(token)) {
      tokens_.push_back(token);
      if (!full() && sequence_->tokens() < sequence_->context()) return step(token);
    } else if (record_) {
      record_->ended = true;
    }
  }
  if (record_) record_->tokens = tokens_;
  return State::kDone;
}

// Step i reads token i of the dense answer.
AnswerRun::State AnswerRun::follow() {
  const DenseAnswer& dense = *dense_;
  const auto chosen_at = [&](int64_t i) { return dense.tokens[static_cast<size_t>(i)]; };
  // A greedy method goes on freely to where the dense answer ended, even beyond the comparison.
  const int64_t steps =
      greedy(question_.sampling) ? static_cast<int64_t>(dense.tokens.size()) : dense.compared();
  const int64_t next = cost_.decode_steps;
  const auto logits = sequence_->logits();
  const auto choice = static_cast<int32_t>(likeliest(logits));
  if (next == 0) {
    // The prefill's own choice, exact for every method.
    same_ = same_ && !dense.tokens.empty() && choice == chosen_at(0);
  } else {
    if (next <= dense.compared()) {
      const auto vocab = static_cast<size_t>(dense.vocab);
      const auto row =
          std::span(dense.logits).subspan(static_cast<size_t>(next - 1) * vocab, vocab);
      agreement_.kl_sum += kl_divergence(row, logits);
      agreement_.agreed += choice == static_cast<int32_t>(likeliest(row));
      ++agreement_.compared;
    }
    same_ = same_ &&
            (next == steps ? dense.ended && engine_->is_end(choice) : choice == chosen_at(next));
  }
  if (next < steps) {
    // After the last token there is only the end to check, where the dense answer has one.
    const bool worth = next < dense.compared() || (same_ && (next + 1 < steps || dense.ended));
    if (worth) return step(chosen_at(next));
  }
  dense_ = nullptr;
  if (!same_) return State::kStart;
  tokens_ = dense.tokens;
  return State::kDone;
}

Answer AnswerRun::take() {
  cost_.generated_tokens = static_cast<int64_t>(tokens_.size());
  cost_.stats = sequence_->stats();
  cost_.memory = sequence_->memory();
  sequence_.reset();
  return {engine_->decode(tokens_), cost_};
}

namespace {

/// The runs under way, and those that wait for room.
class Batch {
 public:
  Batch(Engine& engine, std::span<AnswerRun> runs, size_t parallel,
        const std::function<void(size_t, Answer)>& done)
      : engine_(engine), runs_(runs), parallel_(parallel), done_(done) {
    for (size_t i = 0; i < runs.size(); ++i) waiting_.push_back(i);
    // Logits of large vocabularies take a core longer to compare than a GPU to compute.
    const auto most = static_cast<size_t>(engine.options().threads);
    if (const size_t threads = std::min({parallel, runs.size(), most}); threads > 1) {
      pool_.emplace(static_cast<int>(threads));
    }
  }

  /// Until there is nothing to decode but steps of as many as there is room for; false at the end.
  bool fill() {
    std::vector<size_t> fresh = std::move(active_);
    active_.clear();
    do {
      look(fresh);
      fresh.clear();
      while (room_ && !waiting_.empty() && active_.size() + fresh.size() < parallel_) {
        if (!start(waiting_.front(), active_.empty() && fresh.empty())) break;
        fresh.push_back(waiting_.front());
        waiting_.pop_front();
      }
    } while (!fresh.empty());
    std::sort(active_.begin(), active_.end());
    return !active_.empty();
  }

  void step() {
    std::vector<Sequence*> sequences;
    std::vector<int32_t> tokens;
    for (size_t i : active_) {
      sequences.push_back(&runs_[i].sequence());
      tokens.push_back(runs_[i].token());
    }
    const double start = now();
    engine_.decode(sequences, tokens);
    const double share = (now() - start) / static_cast<double>(active_.size());
    for (size_t i : active_) runs_[i].stepped(share);
  }

 private:
  /// False where there is no memory for one more, unless it is alone.
  bool start(size_t i, bool alone) {
    try {
      runs_[i].start();
      return true;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kOutOfMemory || alone) throw;
      return room_ = false;
    }
  }

  void look(const std::vector<size_t>& fresh) {
    std::vector<AnswerRun::State> states(fresh.size());
    const auto range = [&](int64_t begin, int64_t end, int) {
      for (int64_t at = begin; at < end; ++at) {
        const auto i = static_cast<size_t>(at);
        states[i] = runs_[fresh[i]].look();
      }
    };
    const auto count = static_cast<int64_t>(fresh.size());
    if (pool_) {
      pool_->parallel_for(count, 1, range);
    } else {
      range(0, count, 0);
    }
    for (size_t at = 0; at < fresh.size(); ++at) {
      const size_t i = fresh[at];
      if (states[at] == AnswerRun::State::kStep) {
        active_.push_back(i);
        continue;
      }
      room_ = true;
      if (states[at] == AnswerRun::State::kStart) waiting_.push_front(i);
      if (states[at] == AnswerRun::State::kDone) done_(i, runs_[i].take());
    }
  }

  Engine& engine_;
  std::span<AnswerRun> runs_;
  size_t parallel_;
  const std::function<void(size_t, Answer)>& done_;
  std::optional<ThreadPool> pool_;
  std::deque<size_t> waiting_;
  std::vector<size_t> active_;
  bool room_ = true;  // false from when there was no memory until a sequence is let go
};

}  // namespace

void run_together(Engine& engine, std::span<AnswerRun> runs, size_t parallel,
                  const std::atomic<bool>* cancel,
                  const std::function<void(size_t, Answer)>& done) {
  Batch batch(engine, runs, std::min(parallel, static_cast<size_t>(engine.options().max_batch)),
              done);
  while (batch.fill()) {
    if (cancelled(cancel)) throw Error(ErrorCode::kCancelled, "interrupted");
    batch.step();
  }
}

}  // namespace freekv::eval
