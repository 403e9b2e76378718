#include "eval/answer.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/check.hpp"
#include "engine/sampler.hpp"

namespace freekv::eval {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int32_t likeliest(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// log of the sum of exp(logit).
double log_normaliser(std::span<const float> logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - most);
  const double result = most + std::log(sum);
  check_internal(std::isfinite(result), "the softmax of {} logits is {}", logits.size(), result);
  return result;
}

void check_cancelled(const Question& question) {
  if (question.cancel && question.cancel->load()) {
    throw Error(ErrorCode::kCancelled, "interrupted");
  }
}

/// A prompt read, and the steps after it. The clocks stand still outside its calls.
class Generation {
 public:
  Generation(Engine& engine, const Question& question)
      : engine_(engine),
        question_(question),
        sequence_(engine.new_sequence(std::min<int64_t>(
            engine.options().context,
            static_cast<int64_t>(question.prompt.size()) + question.max_tokens))) {
    const double start = now();
    engine.prefill(
        *sequence_, question.prompt,
        [&](int64_t) { return !(question.cancel && question.cancel->load()); }, question.like);
    cost_.prefill_seconds = now() - start;
  }

  bool full() const { return sequence_->tokens() == sequence_->context(); }
  std::span<const float> logits() const { return sequence_->logits(); }

  void step(int32_t token) {
    check_cancelled(question_);
    const double start = now();
    Sequence* const batch[] = {sequence_.get()};
    engine_.decode(batch, std::span(&token, 1));
    cost_.decode_seconds += now() - start;
    ++cost_.decode_steps;
  }

  Answer finish(std::span<const int32_t> tokens) {
    cost_.generated_tokens = static_cast<int64_t>(tokens.size());
    cost_.stats = sequence_->stats();
    cost_.memory = sequence_->memory();
    return {engine_.decode(tokens), cost_};
  }

 private:
  Engine& engine_;
  const Question& question_;
  std::unique_ptr<Sequence> sequence_;
  AnswerCost cost_;
};

bool greedy(const SamplingOptions& sampling) {
  return sampling.temperature == 0 && sampling.repetition_penalty == 1;
}

}  // namespace

void Agreement::add(const Agreement& other) {
  kl_sum += other.kl_sum;
  compared += other.compared;
  agreed += other.agreed;
}

void AnswerCost::add(const AnswerCost& other) {
  generated_tokens += other.generated_tokens;
  decode_steps += other.decode_steps;
  prefill_seconds += other.prefill_seconds;
  decode_seconds += other.decode_seconds;
  stats.add(other.stats);
  // The caches of the largest answer: answers follow one another.
  memory.fast_kv_bytes = std::max(memory.fast_kv_bytes, other.memory.fast_kv_bytes);
  memory.slow_kv_bytes = std::max(memory.slow_kv_bytes, other.memory.slow_kv_bytes);
  memory.sketch_bytes = std::max(memory.sketch_bytes, other.memory.sketch_bytes);
}

double kl_divergence(std::span<const float> p, std::span<const float> q) {
  check_internal(p.size() == q.size() && !p.empty(), "{} and {} logits to compare", p.size(),
                 q.size());
  const double p_norm = log_normaliser(p), q_norm = log_normaliser(q);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = p[i] - p_norm;
    // A token that cannot come (its logit may be -infinity) adds nothing.
    if (const double share = std::exp(log_p); share > 0) sum += share * (log_p - (q[i] - q_norm));
  }
  // Rounding leaves a trace on either side of 0 where the rows are equal.
  return std::max(0.0, sum);
}

Answer answer_freely(Engine& engine, const Question& question, DenseAnswer* dense,
                     size_t logit_bytes) {
  Sampler sampler(question.sampling, engine.model().vocab);
  for (int32_t token : question.prompt) sampler.accept(token);
  Generation generation(engine, question);
  if (dense) *dense = {.tokens = {}, .ended = false, .vocab = engine.model().vocab, .logits = {}};
  std::vector<int32_t> tokens;
  while (static_cast<int64_t>(tokens.size()) < question.max_tokens) {
    const int32_t token = sampler.sample(generation.logits());
    if (engine.is_end(token)) {
      if (dense) dense->ended = true;
      break;
    }
    tokens.push_back(token);
    if (static_cast<int64_t>(tokens.size()) == question.max_tokens || generation.full()) break;
    generation.step(token);
    const auto logits = generation.logits();
    if (dense && (dense->logits.size() + logits.size()) * sizeof(float) <= logit_bytes) {
      dense->logits.insert(dense->logits.end(), logits.begin(), logits.end());
    }
  }
  if (dense) dense->tokens = tokens;
  return generation.finish(tokens);
}

Answer answer_and_compare(Engine& engine, const Question& question, const DenseAnswer& dense,
                          Agreement& agreement) {
  const auto vocab = static_cast<size_t>(dense.vocab);
  const bool follows_freely = greedy(question.sampling);
  // A greedy method goes on freely to where the dense answer ended, even beyond the comparison.
  const int64_t steps =
      follows_freely ? static_cast<int64_t>(dense.tokens.size()) : dense.compared();
  bool same = follows_freely;
  {
    Generation generation(engine, question);
    const auto chosen_at = [&](int64_t i) { return dense.tokens[static_cast<size_t>(i)]; };
    // The prefill's own choice, exact for every method.
    same = same && !dense.tokens.empty() && likeliest(generation.logits()) == chosen_at(0);
    for (int64_t i = 0; i < steps; ++i) {
      const bool compare = i < dense.compared();
      // After the last token there is only the end to check, where the dense answer has one.
      const bool last = i + 1 == steps;
      if (!compare && (!same || (last && !dense.ended))) break;
      generation.step(chosen_at(i));
      const auto logits = generation.logits();
      const int32_t choice = likeliest(logits);
      if (compare) {
        const auto row = std::span(dense.logits).subspan(static_cast<size_t>(i) * vocab, vocab);
        agreement.kl_sum += kl_divergence(row, logits);
        agreement.agreed += choice == likeliest(row);
        ++agreement.compared;
      }
      same = same && (last ? dense.ended && engine.is_end(choice) : choice == chosen_at(i + 1));
    }
    if (same) return generation.finish(dense.tokens);
  }
  return answer_freely(engine, question);
}

}  // namespace freekv::eval
