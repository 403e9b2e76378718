// freekv eval: suites of tasks under several policies, each answer compared with dense attention.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "commands.hpp"
#include "engine_flags.hpp"
#include "eval/evaluate.hpp"
#include "eval/result_log.hpp"
#include "eval/suite.hpp"
#include "exit_code.hpp"
#include "interrupt.hpp"
#include "policies/policy.hpp"
#include "progress.hpp"
#include "read_file.hpp"

namespace freekv::app {
namespace {

/// Of every `count` samples the one numbered `index`: what one of several processes does.
struct Shard {
  int64_t index = 0;
  int64_t count = 1;
};

Shard parse_shard(const std::string& text) {
  Shard shard;
  char rest = 0;
  const int read = std::sscanf(text.c_str(), "%ld/%ld%c", &shard.index, &shard.count, &rest);
  if (read != 2 || shard.index < 0 || shard.index >= shard.count) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--shard is \"{}\", must be I/N with I from 0 to N - 1", text));
  }
  return shard;
}

struct EvalOptions {
  EngineFlags engine;
  eval::EvaluationOptions evaluation;
  eval::SuiteOptions suite;
  std::vector<std::string> suites = {"ruler"};
  std::vector<std::string> policies = {"full", "freekv"};
  std::vector<int64_t> contexts = {8192};
  std::vector<int64_t> budgets = {2048};
  std::vector<int> pages = {32};
  int64_t samples = 20;
  int64_t parallel = 1;
  std::string shard = "0/1";
  std::string haystack = "models/demo_document.txt";
  std::string out;
};

void check(const EvalOptions& options) {
  const auto require = [](bool holds, const std::string& message) {
    if (!holds) throw Error(ErrorCode::kInvalidArgument, message);
  };
  for (int64_t context : options.contexts) {
    require(context >= 1, fmt::format("--context has {}, must be 1 or more", context));
  }
  require(options.samples >= 1, fmt::format("--samples is {}, must be 1 or more", options.samples));
  require(options.parallel >= 1 && options.parallel <= 1024,
          fmt::format("--parallel is {}, must be 1 to 1024", options.parallel));
  parse_shard(options.shard);
  require(options.evaluation.repeats >= 1,
          fmt::format("--k is {}, must be 1 or more", options.evaluation.repeats));
  require(options.evaluation.repeats == 1 || options.evaluation.sampling.temperature > 0,
          fmt::format("--k is {}, but greedy answers (--temp 0) are all the same",
                      options.evaluation.repeats));
  require(options.evaluation.answer_limit >= 0,
          fmt::format("-n is {}, must be 0 or more", options.evaluation.answer_limit));
  require(options.suite.questions >= 1,
          fmt::format("--questions is {}, must be 1 or more", options.suite.questions));
}

eval::Suites make_suites(const EvalOptions& options) {
  eval::SuiteOptions given = options.suite;
  const bool made = std::any_of(options.suites.begin(), options.suites.end(), eval::needs_haystack);
  if (made) {
    given.haystack =
        std::make_shared<eval::Haystack>(read_file(options.haystack), options.haystack);
  }
  eval::Suites suites;
  for (const std::string& name : options.suites) {
    for (auto& suite : eval::make_suites(name, given)) suites.push_back(std::move(suite));
  }
  return suites;
}

/// Policies that the device does not run answer on the host, from what the device has read.
bool answers_on_host(const EngineOptions& base, const std::string& policy) {
  return base.backend == "cuda" && !make_policy(policy)->device_rule();
}

/// Every policy with every setting; dense attention has no settings and comes once.
std::vector<std::unique_ptr<Engine>> make_methods(const EvalOptions& options,
                                                  const EngineOptions& base, const Engine& like) {
  std::vector<std::unique_ptr<Engine>> methods;
  for (const std::string& policy : options.policies) {
    const bool dense = policy == "full", on_host = answers_on_host(base, policy);
    if (on_host) fmt::print(stderr, "{} answers on the CPU from what the GPU has read\n", policy);
    for (int64_t budget : dense ? std::vector<int64_t>{base.budget} : options.budgets) {
      for (int page : dense ? std::vector<int>{base.page} : options.pages) {
        EngineOptions engine = base;
        engine.policy = policy;
        if (on_host) engine.backend = "cpu";
        engine.budget = budget;
        engine.page = page;
        methods.push_back(std::make_unique<Engine>(engine, nullptr, &like));
      }
    }
  }
  return methods;
}

/// Samples of one suite and context, with the methods that are not done yet.
struct Job {
  const eval::Suite* suite;
  int64_t context;
  std::vector<eval::SampleJob> samples;
};

eval::SampleRequest request_for(const EvalOptions& options, int64_t context, int64_t sample,
                                const eval::TokenCounter& count) {
  return {.seed = options.evaluation.sampling.seed,
          .index = sample,
          .context = context,
          .count = count};
}

/// Throws, naming the suite, when a context is too small for its samples.
void check_contexts(const EvalOptions& options, const eval::Suites& suites,
                    const eval::TokenCounter& count) {
  for (int64_t context : options.contexts) {
    for (const auto& suite : suites) {
      try {
        suite->make(request_for(options, context, 0, count));
      } catch (const Error& error) {
        throw Error(error.code(), error.message(), suite->name());
      }
    }
  }
}

/// All that is not in the file yet.
std::vector<Job> open_jobs(const EvalOptions& options, const Engine& dense,
                           const eval::Suites& suites,
                           const std::vector<std::unique_ptr<Engine>>& methods,
                           const eval::TokenCounter& count, const eval::ResultLog& log) {
  const Shard shard = parse_shard(options.shard);
  std::vector<Job> jobs;
  for (int64_t context : options.contexts) {
    for (const auto& suite : suites) {
      const int64_t samples = std::min(options.samples, suite->size());
      Job job{suite.get(), context, {}};
      for (int64_t sample = shard.index; sample < samples; sample += shard.count) {
        const auto request = request_for(options, context, sample, count);
        eval::SampleJob open{request, {}};
        for (const auto& method : methods) {
          const auto row = eval::row_identity(dense, *method, *suite, request, options.evaluation);
          if (!log.has(row)) open.methods.push_back(method.get());
        }
        if (!open.methods.empty()) job.samples.push_back(std::move(open));
      }
      if (!job.samples.empty()) jobs.push_back(std::move(job));
    }
  }
  return jobs;
}

/// The samples of a job, options.parallel at a time and fewer from where there is no memory for as
/// many; done() after every row.
void evaluate_job(Engine& dense, Job job, eval::EvaluationOptions& options, eval::ResultLog& log,
                  const std::function<void()>& done) {
  size_t at = 0;
  while (at < job.samples.size()) {
    const size_t count = std::min(options.parallel, job.samples.size() - at);
    const std::span<eval::SampleJob> group(job.samples.data() + at, count);
    try {
      eval::evaluate_samples(dense, group, *job.suite, options,
                             [&](size_t, size_t, const eval::ResultRow& row) {
                               log.append(row);
                               done();
                             });
      at += count;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kOutOfMemory || count == 1) throw;
      options.parallel = count / 2;
      fmt::print(stderr, "{} samples at a time from here on: {}\n", options.parallel, error.what());
      for (eval::SampleJob& sample : group) {
        std::erase_if(sample.methods, [&](Engine* method) {
          return log.has(eval::row_identity(dense, *method, *job.suite, sample.request, options));
        });
      }
      // One without methods would be read for nothing.
      const auto first = job.samples.begin() + static_cast<ptrdiff_t>(at);
      std::vector<eval::SampleJob> rest;
      for (auto sample = first; sample != job.samples.end(); ++sample) {
        if (!sample->methods.empty()) rest.push_back(*sample);
      }
      job.samples.swap(rest);
      at = 0;
    }
  }
}

void evaluate(EvalOptions options) {
  check(options);
  EngineOptions base = options.engine.finish();
  base.policy = "full";
  options.evaluation.parallel = static_cast<size_t>(options.parallel);
  base.max_batch = static_cast<int>(options.evaluation.parallel);
  EngineOptions reader = base;
  // On a device what it has read counts as open, beside the answers.
  if (base.backend == "cuda" && base.max_batch > 1) reader.max_batch *= 2;
  Engine dense(reader);
  if (options.evaluation.chat)
    dense.chat_prompt(user_turn(""));  // refused now when there is no template
  const auto methods = make_methods(options, base, dense);
  const eval::Suites suites = make_suites(options);
  const eval::TokenCounter count = eval::token_counter(dense);

  check_contexts(options, suites, count);
  eval::ResultLog log(options.out);
  if (log.cut_bytes() > 0) {
    fmt::print(stderr, "{}: a last line of {} bytes was unfinished and is cut off\n", options.out,
               log.cut_bytes());
  }
  const std::vector<Job> jobs = open_jobs(options, dense, suites, methods, count, log);
  // Reading and answering both grow with the context; rows alone would promise too little time.
  int64_t total = 0, done = 0;
  for (const Job& job : jobs) {
    for (const auto& sample : job.samples) {
      total += job.context * static_cast<int64_t>(sample.methods.size());
    }
  }

  const size_t before = log.size();
  const Interrupt interrupt;
  options.evaluation.cancel = &interrupt.flag();
  try {
    Progress progress("evaluating", total);
    for (const Job& job : jobs) {
      evaluate_job(dense, job, options.evaluation, log, [&] {
        done += job.context;
        progress.update(done);
      });
    }
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
    fmt::print(stderr, "interrupted: {} results are in {}; the same command goes on from there\n",
               log.size(), options.out);
    throw ExitRequest{kInterrupted};
  }
  fmt::print("{} results in {}, {} of them new\n", log.size(), options.out, log.size() - before);
}

}  // namespace

void add_eval(CLI::App& app) {
  auto* command = app.add_subcommand(
      "eval", "Accuracy of policies: task scores, and agreement with dense attention");
  auto options = std::make_shared<EvalOptions>();
  options->engine.options.model = "models/freekv-demo.gguf";
  options->engine.add_to(*command, false);
  for (const char* replaced : {"--policy", "--budget", "--page", "--tau", "--ctx"}) {
    command->remove_option(command->get_option(replaced));
  }
  add_sampling_options(*command, options->evaluation.sampling);
  command->get_option("--seed")->description("seed of the samples and of the sampler");
  command->add_option("-m,--model", options->engine.options.model, "GGUF model file")
      ->capture_default_str();
  command
      ->add_option("--suite", options->suites,
                   "ruler, ruler/TASK, chain, ledger, copy-json, longbench-v2:FILE, "
                   "longgenbench:FILE, math:FILE, aime:FILE")
      ->delimiter(',')
      ->capture_default_str();
  command
      ->add_option("--context", options->contexts,
                   "tokens of document, question and answer together")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--samples", options->samples, "samples of each suite and context")
      ->capture_default_str();
  command
      ->add_option("--shard", options->shard,
                   "I/N: of the samples only I, I + N, I + 2N, ..., for N processes of which each "
                   "writes a file; together they hold what one run does")
      ->capture_default_str();
  command
      ->add_option("--parallel", options->parallel,
                   "samples at a time, whose answers are decoded together; limits of memory are "
                   "divided among them")
      ->capture_default_str();
  command
      ->add_option("--policies", options->policies,
                   "policies, separated by spaces: NAME or NAME:key=value,...")
      ->capture_default_str();
  command->add_option("--budgets", options->budgets, "tokens attended per step")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--pages", options->pages, "tokens per page")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--out", options->out, "results, a line each; a run goes on from there")
      ->required();
  command->add_flag("--chat,!--raw", options->evaluation.chat,
                    "questions in the model's chat format (the default), or as plain text");
  command->add_option("--k", options->evaluation.repeats, "answers to each question, for avg@k")
      ->capture_default_str();
  command->add_option("-n,--n-predict", options->evaluation.answer_limit,
                      "most tokens of an answer (0: by the expected answer)");
  command->add_option("--haystack", options->haystack, "text that facts are hidden in")
      ->capture_default_str();
  command->add_option("--entries", options->suite.entries, "entries of a ledger")
      ->capture_default_str();
  command->add_option("--records", options->suite.records, "records of a copy-json text")
      ->capture_default_str();
  command
      ->add_option("--questions", options->suite.questions,
                   "questions about one document, where there can be several")
      ->capture_default_str();
  command->callback([options] { evaluate(*options); });
}

}  // namespace freekv::app
