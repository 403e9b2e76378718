#include "eval/answer.hpp"

#include <algorithm>

#include "eval/answer_run.hpp"

namespace freekv::eval {
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
