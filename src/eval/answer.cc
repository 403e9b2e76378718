#include "eval/answer.hpp"

#include <algorithm>
#include <cmath>

#include "core/check.hpp"
#include "eval/answer_run.hpp"

namespace freekv::eval {
namespace {

/// log of the sum of exp(logit).
double log_normaliser(std::span<const float> logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - most);
  const double result = most + std::log(sum);
  check_internal(std::isfinite(result), "the softmax of {} logits is {}", logits.size(), result);
  return result;
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

namespace {

Answer alone(Engine& engine, const Question& question, AnswerRun& run) {
  Answer result;
  run_together(engine, {&run, 1}, 1, question.cancel,
               [&](size_t, Answer answer) { result = std::move(answer); });
  return result;
}

}  // namespace

Answer answer_freely(Engine& engine, const Question& question, DenseAnswer* dense,
                     size_t logit_bytes) {
  AnswerRun run(engine, question, dense, logit_bytes);
  return alone(engine, question, run);
}

Answer answer_and_compare(Engine& engine, const Question& question, const DenseAnswer& dense,
                          Agreement& agreement) {
  AnswerRun run(engine, question, dense);
  const Answer answer = alone(engine, question, run);
  agreement.add(run.agreement());
  return answer;
}

}  // namespace freekv::eval
