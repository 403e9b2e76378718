#include "eval/evaluate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/check.hpp"
#include "eval/random.hpp"
#include "policies/policy.hpp"

namespace freekv::eval {
namespace {

constexpr const char* kDense = "full";

std::string policy_name(const std::string& specification) {
  return specification.substr(0, specification.find(':'));
}

/// The value of dense_layers that a policy runs with; 0 for policies that have no such key.
int64_t dense_layers(const std::string& specification) {
  constexpr std::string_view kKey = "dense_layers";
  const size_t given = specification.find(std::string(kKey) + "=");
  if (given != std::string::npos) {
    return std::atoll(specification.c_str() + given + kKey.size() + 1);
  }
  for (const PolicyDescriptor& policy : policy_table()) {
    if (policy.name != policy_name(specification)) continue;
    for (const PolicyKey& key : policy.keys) {
      if (key.name == kKey) return std::atoll(key.default_value.c_str());
    }
  }
  return 0;
}

std::string sampling_text(const SamplingOptions& sampling) {
  std::string text;
  const auto add = [&](const char* name, double value, double off) {
    if (value != off) text += fmt::format("{}{}={:g}", text.empty() ? "" : ",", name, value);
  };
  add("temp", sampling.temperature, 0);
  add("top_k", sampling.top_k, 0);
  add("top_p", sampling.top_p, 1);
  add("min_p", sampling.min_p, 0);
  add("repeat_penalty", sampling.repetition_penalty, 1);
  if (sampling.repetition_penalty != 1) add("repeat_last_n", sampling.repetition_window, 0);
  return text.empty() ? "greedy" : text;
}

/// A turn as the model meets it.
struct AskedTurn {
  const Turn* turn = nullptr;
  std::vector<int32_t> prompt;
  int64_t limit = 0;
  DenseAnswer dense;
  Answer dense_answer;
};

std::vector<int32_t> prompt_of(const Engine& engine, const Sample& sample, const Turn& turn,
                               bool chat) {
  std::string text = sample.document;
  if (!text.empty()) text += "\n\n";
  text += turn.question;
  if (chat) return engine.encode(engine.chat_prompt(user_turn(text)), true);
  text += turn.answer_start.empty() ? "\n" : " " + turn.answer_start;
  return engine.encode(text, false);
}

int64_t answer_limit(const Turn& turn, int64_t prompt_tokens, const SampleRequest& request,
                     const EvaluationOptions& options) {
  if (options.answer_limit > 0) return options.answer_limit;
  // A wrong answer may be longer than the right one; where none is known, the context is the limit.
  if (!turn.answer.empty()) return request.count(turn.answer) * 5 / 4 + 32;
  check_argument(prompt_tokens < request.context,
                 "the prompt has {} tokens, a context of {} leaves none for the answer",
                 prompt_tokens, request.context);
  return request.context - prompt_tokens;
}

std::unique_ptr<Sequence> read_prompt(Engine& dense, std::span<const int32_t> prompt,
                                      const EvaluationOptions& options, double& seconds) {
  const auto start = std::chrono::steady_clock::now();
  auto sequence = dense.new_sequence(static_cast<int64_t>(prompt.size()));
  dense.prefill(*sequence, prompt,
                [&](int64_t) { return !(options.cancel && options.cancel->load()); });
  seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return sequence;
}

}  // namespace

TokenCounter token_counter(const Engine& engine) {
  return [&engine](std::string_view text) {
    return static_cast<int64_t>(engine.encode(text, false).size());
  };
}

ResultRow row_identity(const Engine& method, const Suite& suite, const SampleRequest& request,
                       const EvaluationOptions& options) {
  const EngineOptions& engine = method.options();
  ResultRow row;
  row.model = method.model().name;
  row.suite = suite.name();
  row.settings = suite.settings();
  row.format = options.chat ? "chat" : "raw";
  row.sampling = sampling_text(options.sampling);
  row.context = request.context;
  row.sample = request.index;
  row.seed = request.seed;
  row.policy = engine.policy;
  if (policy_name(engine.policy) != kDense) {
    row.budget = engine.budget;
    row.sink = engine.sink;
    row.window = engine.window;
    row.page = engine.page;
  }
  row.kv_type = engine.kv_type;
  row.backend = engine.backend;
  row.answer_limit = options.answer_limit;
  row.repeats = options.repeats;
  row.layers = method.model().layers;
  row.dense_layers = std::min(row.layers, dense_layers(engine.policy));
  return row;
}

void evaluate_sample(Engine& dense, std::span<Engine* const> methods, const Suite& suite,
                     const SampleRequest& request, const EvaluationOptions& options,
                     const std::function<void(size_t, const ResultRow&)>& emit) {
  const Sample sample = suite.make(request);
  std::vector<AskedTurn> turns;
  for (const Turn& turn : sample.turns) {
    AskedTurn asked{.turn = &turn,
                    .prompt = prompt_of(dense, sample, turn, options.chat),
                    .limit = 0,
                    .dense = {},
                    .dense_answer = {}};
    asked.limit = answer_limit(turn, static_cast<int64_t>(asked.prompt.size()), request, options);
    turns.push_back(std::move(asked));
  }
  double read_seconds = 0;
  // All prompts begin with the document, so what the first has read serves every turn and method.
  const auto read = read_prompt(dense, turns.front().prompt, options, read_seconds);

  const auto question = [&](size_t turn, int64_t repeat) {
    Question result{.prompt = turns[turn].prompt,
                    .max_tokens = turns[turn].limit,
                    .sampling = options.sampling,
                    .like = read.get(),
                    .cancel = options.cancel};
    result.sampling.seed =
        hash(fmt::format("{} {} {} {}", request.seed, request.index, turn, repeat));
    return result;
  };
  for (size_t t = 0; t < turns.size(); ++t) {
    turns[t].dense_answer =
        answer_freely(dense, question(t, 0), &turns[t].dense, options.logit_bytes / turns.size());
  }

  for (size_t m = 0; m < methods.size(); ++m) {
    Engine& engine = *methods[m];
    const bool is_dense = policy_name(engine.options().policy) == kDense;
    ResultRow row = row_identity(engine, suite, request, options);
    row.id = sample.id;
    row.read_seconds = read_seconds;
    double scores = 0, exact = 0;
    for (size_t t = 0; t < turns.size(); ++t) {
      row.prompt_tokens = std::max(row.prompt_tokens, static_cast<int64_t>(turns[t].prompt.size()));
      auto& texts = row.answers.emplace_back();
      auto& values = row.scores.emplace_back();
      for (int64_t repeat = 0; repeat < options.repeats; ++repeat) {
        Answer answer;
        if (repeat > 0) {
          answer = answer_freely(engine, question(t, repeat));
        } else if (is_dense) {
          answer = turns[t].dense_answer;
          const int64_t compared = turns[t].dense.compared();
          row.agreement.add({.kl_sum = 0, .compared = compared, .agreed = compared});
        } else {
          answer = answer_and_compare(engine, question(t, 0), turns[t].dense, row.agreement);
        }
        row.cost.add(answer.cost);
        const Turn& turn = *turns[t].turn;
        const Score score =
            suite.score(turn, options.chat ? answer.text : turn.answer_start + answer.text);
        scores += score.value;
        exact += score.exact;
        values.push_back(score.value);
        texts.push_back(std::move(answer.text));
      }
    }
    const auto answers = static_cast<double>(turns.size()) * static_cast<double>(options.repeats);
    row.score = scores / answers;
    row.exact = exact / answers;
    emit(m, row);
  }
}

}  // namespace freekv::eval
