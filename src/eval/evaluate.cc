#include "eval/evaluate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/check.hpp"
#include "eval/answer_run.hpp"
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

/// The model's name, and what else it computes with than its file says.
std::string model_text(const Engine& engine) {
  const RopeOptions& rope = engine.options().rope;
  std::string text = engine.model().name;
  char before = ' ';
  const auto add = [&](const char* name, const auto& value, const auto& off) {
    if (value == off) return;
    text += fmt::format("{}{}={}", before, name, value);
    before = ',';
  };
  add("rope_scaling", rope.scaling, "");
  add("rope_scale", rope.scale, 0);
  add("rope_freq_base", rope.freq_base, 0);
  add("yarn_orig_ctx", rope.yarn_orig_ctx, 0);
  return text;
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
  return engine.encode_prompt(text);
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

/// Of how many of a prompt's last tokens to keep the queries, so that no method that looks at them
/// reads the prompt again. One that looks at more than there is memory for does.
int64_t queries_to_keep(const ModelInfo& model, std::span<Engine* const> methods, int64_t prompt,
                        size_t bytes) {
  const auto of_token = static_cast<size_t>(model.layers) *
                        static_cast<size_t>(model.query_heads * model.head_dim) * sizeof(float);
  int64_t most = 0;
  for (const Engine* method : methods) {
    const int64_t observed = method->observed_tokens(prompt);
    if (static_cast<size_t>(observed) <= bytes / of_token) most = std::max(most, observed);
  }
  return most;
}

std::unique_ptr<Sequence> read_prompt(Engine& dense, std::span<Engine* const> methods,
                                      std::span<const int32_t> prompt,
                                      const EvaluationOptions& options, double& seconds) {
  const auto start = std::chrono::steady_clock::now();
  const auto size = static_cast<int64_t>(prompt.size());
  auto sequence =
      dense.new_sequence(size, queries_to_keep(dense.model(), methods, size, options.query_bytes));
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

ResultRow row_identity(const Engine& dense, const Engine& method, const Suite& suite,
                       const SampleRequest& request, const EvaluationOptions& options) {
  const EngineOptions& engine = method.options();
  ResultRow row;
  row.model = model_text(method);
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
  const std::string& reader = dense.options().backend;
  row.backend = reader == engine.backend ? reader : reader + "+" + engine.backend;
  row.answer_limit = options.answer_limit;
  row.repeats = options.repeats;
  row.layers = method.model().layers;
  row.dense_layers = std::min(row.layers, dense_layers(engine.policy));
  return row;
}

namespace {

/// A sample that was read, its turns' dense answers, and the rows in the making.
struct AskedSample {
  Sample sample;
  std::vector<AskedTurn> turns;
  double read_seconds = 0;
  std::unique_ptr<Sequence> read;
};

AskedSample read_sample(Engine& dense, std::span<Engine* const> methods, const Suite& suite,
                        const SampleRequest& request, const EvaluationOptions& options) {
  AskedSample asked{.sample = suite.make(request), .turns = {}, .read_seconds = 0, .read = nullptr};
  for (const Turn& turn : asked.sample.turns) {
    AskedTurn& next = asked.turns.emplace_back();
    next.turn = &turn;
    next.prompt = prompt_of(dense, asked.sample, turn, options.chat);
    next.limit = answer_limit(turn, static_cast<int64_t>(next.prompt.size()), request, options);
  }
  // All prompts begin with the document, so what the first has read serves every turn and method.
  asked.read = read_prompt(dense, methods, asked.turns.front().prompt, options, asked.read_seconds);
  return asked;
}

Question question_of(const AskedSample& asked, const SampleRequest& request, size_t turn,
                     int64_t repeat, const EvaluationOptions& options) {
  Question result{.prompt = asked.turns[turn].prompt,
                  .max_tokens = asked.turns[turn].limit,
                  .sampling = options.sampling,
                  .like = asked.read.get(),
                  .cancel = options.cancel};
  result.sampling.seed =
      hash(fmt::format("{} {} {} {}", request.seed, request.index, turn, repeat));
  return result;
}

/// An answer's place among those of all jobs.
struct Place {
  size_t job = 0;
  size_t turn = 0;
  size_t repeat = 0;
};

void answer_densely(Engine& dense, std::span<const SampleJob> jobs,
                    std::vector<AskedSample>& samples, const EvaluationOptions& options) {
  std::vector<AnswerRun> runs;
  std::vector<Place> places;
  for (size_t j = 0; j < jobs.size(); ++j) {
    auto& turns = samples[j].turns;
    for (size_t t = 0; t < turns.size(); ++t) {
      runs.emplace_back(dense, question_of(samples[j], jobs[j].request, t, 0, options),
                        &turns[t].dense, options.logit_bytes / turns.size());
      places.push_back({j, t, 0});
    }
  }
  run_together(dense, runs, options.parallel, options.cancel, [&](size_t run, Answer answer) {
    samples[places[run].job].turns[places[run].turn].dense_answer = std::move(answer);
  });
}

/// One method's answers to one sample, [turn][repeat].
struct MethodAnswers {
  struct Given {
    Answer answer;
    Agreement agreement;
  };
  std::vector<std::vector<Given>> turns;
  size_t missing = 0;
};

ResultRow row_of(const Engine& dense, const Engine& engine, const Suite& suite,
                 const SampleRequest& request, const AskedSample& asked,
                 const MethodAnswers& answers, const EvaluationOptions& options) {
  ResultRow row = row_identity(dense, engine, suite, request, options);
  row.id = asked.sample.id;
  row.read_seconds = asked.read_seconds;
  double scores = 0, exact = 0;
  for (size_t t = 0; t < asked.turns.size(); ++t) {
    const AskedTurn& turn = asked.turns[t];
    row.prompt_tokens = std::max(row.prompt_tokens, static_cast<int64_t>(turn.prompt.size()));
    auto& texts = row.answers.emplace_back();
    auto& values = row.scores.emplace_back();
    for (const auto& [answer, agreement] : answers.turns[t]) {
      row.agreement.add(agreement);
      row.cost.add(answer.cost);
      const Score score = suite.score(
          *turn.turn, options.chat ? answer.text : turn.turn->answer_start + answer.text);
      scores += score.value;
      exact += score.exact;
      values.push_back(score.value);
      texts.push_back(answer.text);
    }
  }
  const auto count = static_cast<double>(asked.turns.size()) * static_cast<double>(options.repeats);
  row.score = scores / count;
  row.exact = exact / count;
  return row;
}

/// All that one method has to answer of the jobs; emit(j, row) as soon as one of them is done.
void answer_with(const Engine& dense, Engine& engine, std::span<const SampleJob> jobs,
                 const Suite& suite, const std::vector<AskedSample>& samples,
                 const EvaluationOptions& options,
                 const std::function<void(size_t job, const ResultRow&)>& emit) {
  const bool is_dense = policy_name(engine.options().policy) == kDense;
  std::vector<AnswerRun> runs;
  std::vector<Place> places;
  std::vector<MethodAnswers> answers(jobs.size());
  for (size_t j = 0; j < jobs.size(); ++j) {
    const auto& methods = jobs[j].methods;
    if (std::find(methods.begin(), methods.end(), &engine) == methods.end()) continue;
    const AskedSample& asked = samples[j];
    answers[j].turns.resize(asked.turns.size());
    for (size_t t = 0; t < asked.turns.size(); ++t) {
      const AskedTurn& turn = asked.turns[t];
      auto& given = answers[j].turns[t];
      given.resize(static_cast<size_t>(options.repeats));
      for (size_t r = 0; r < given.size(); ++r) {
        if (r == 0 && is_dense) {
          const int64_t compared = turn.dense.compared();
          given[0] = {turn.dense_answer, {.kl_sum = 0, .compared = compared, .agreed = compared}};
          continue;
        }
        const Question question =
            question_of(asked, jobs[j].request, t, static_cast<int64_t>(r), options);
        r == 0 ? runs.emplace_back(engine, question, turn.dense)
               : runs.emplace_back(engine, question);
        places.push_back({j, t, r});
        ++answers[j].missing;
      }
    }
    if (answers[j].missing == 0) {
      emit(j, row_of(dense, engine, suite, jobs[j].request, asked, answers[j], options));
    }
  }
  run_together(engine, runs, options.parallel, options.cancel, [&](size_t run, Answer answer) {
    const auto [j, t, r] = places[run];
    answers[j].turns[t][r] = {std::move(answer), runs[run].agreement()};
    if (--answers[j].missing > 0) return;
    emit(j, row_of(dense, engine, suite, jobs[j].request, samples[j], answers[j], options));
    answers[j].turns.clear();
  });
}

}  // namespace

void evaluate_samples(Engine& dense, std::span<const SampleJob> jobs, const Suite& suite,
                      const EvaluationOptions& options,
                      const std::function<void(size_t, size_t, const ResultRow&)>& emit) {
  std::vector<AskedSample> samples;
  EvaluationOptions share = options;
  share.query_bytes /= std::max<size_t>(1, jobs.size());
  for (const SampleJob& job : jobs) {
    samples.push_back(read_sample(dense, job.methods, suite, job.request, share));
  }
  answer_densely(dense, jobs, samples, options);
  std::vector<Engine*> methods;  // in the order in which jobs name them
  for (const SampleJob& job : jobs) {
    for (Engine* method : job.methods) {
      if (std::find(methods.begin(), methods.end(), method) == methods.end()) {
        methods.push_back(method);
      }
    }
  }
  for (Engine* method : methods) {
    answer_with(dense, *method, jobs, suite, samples, options,
                [&](size_t job, const ResultRow& row) {
                  const auto& all = jobs[job].methods;
                  const auto at = std::find(all.begin(), all.end(), method) - all.begin();
                  emit(job, static_cast<size_t>(at), row);
                });
  }
}

void evaluate_sample(Engine& dense, std::span<Engine* const> methods, const Suite& suite,
                     const SampleRequest& request, const EvaluationOptions& options,
                     const std::function<void(size_t, const ResultRow&)>& emit) {
  const SampleJob job{request, {methods.begin(), methods.end()}};
  evaluate_samples(dense, {&job, 1}, suite, options,
                   [&](size_t, size_t method, const ResultRow& row) { emit(method, row); });
}

}  // namespace freekv::eval
