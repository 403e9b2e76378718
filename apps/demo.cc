// freekv demo: questions about a long document, answered by dense attention and by FreeKV.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.hpp"
#include "engine_flags.hpp"
#include "exit_code.hpp"
#include "freekv/engine.hpp"
#include "interrupt.hpp"
#include "progress.hpp"
#include "read_file.hpp"
#include "report.hpp"
#include "table.hpp"

namespace freekv::app {
namespace {

struct DemoOptions {
  EngineFlags engine;
  std::string document = "models/demo_document.txt";
  std::string questions = "models/demo_questions.json";
  int64_t max_tokens = 192;
};

struct Question {
  std::string text;
  std::string answer;
};

std::vector<Question> read_questions(const std::string& path) {
  const auto json = nlohmann::json::parse(read_file(path), nullptr, false);
  if (!json.is_array() || json.empty()) {
    throw Error(ErrorCode::kParse, "must be a JSON list of {\"question\", \"answer\"}", path);
  }
  std::vector<Question> questions;
  for (const auto& entry : json) {
    if (!entry.is_object() || !entry.value("question", nlohmann::json()).is_string() ||
        !entry.value("answer", nlohmann::json()).is_string()) {
      throw Error(ErrorCode::kParse,
                  fmt::format("entry {} must have the strings \"question\" and \"answer\"",
                              questions.size()),
                  path);
    }
    questions.push_back({entry["question"], entry["answer"]});
  }
  return questions;
}

/// One policy with the sequence that answers the questions, and what it did in all of them.
struct Contestant {
  std::string label;
  Engine engine;
  std::unique_ptr<Sequence> sequence;
  RetrievalStats stats;
  MemoryStats memory;
  double decode_seconds = 0;
  int64_t decode_steps = 0;
  int right = 0;

  Contestant(std::string name, const EngineOptions& options, const Engine* like = nullptr)
      : label(std::move(name)), engine(options, progress_bar(), like) {}
};

EngineOptions with_policy(EngineOptions options, const std::string& policy) {
  options.policy = policy;
  return options;
}

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \n") - first + 1);
}

/// Lists come as lines; shown on one.
std::string one_line(std::string text) {
  for (size_t at = 0; (at = text.find('\n', at)) != std::string::npos;) text.replace(at, 1, "; ");
  return text;
}

std::vector<int32_t> encode_question(const Engine& engine, const std::string& text) {
  return engine.encode(engine.chat_prompt(user_turn(text)), true);
}

/// Reads the document once, densely: what every question and policy begins with.
std::unique_ptr<Sequence> read_document(Engine& engine, const std::string& document,
                                        const Interrupt& interrupt) {
  const auto tokens = encode_question(engine, document);
  auto sequence = engine.new_sequence(static_cast<int64_t>(tokens.size()));
  Progress progress("reading", static_cast<int64_t>(tokens.size()));
  engine.prefill(*sequence, tokens, [&](int64_t done) {
    progress.update(done);
    return !interrupt.flag();
  });
  return sequence;
}

std::string ask(Contestant& contestant, const std::string& prompt_text, int64_t max_tokens,
                const Sequence* document, const Interrupt& interrupt) {
  const auto prompt = encode_question(contestant.engine, prompt_text);
  contestant.sequence.reset();  // so that the caches of two are not held at once
  contestant.sequence =
      contestant.engine.new_sequence(static_cast<int64_t>(prompt.size()) + max_tokens);
  std::string answer;
  const GenerateRequest request{.prompt = prompt,
                                .max_tokens = max_tokens,
                                .sampling = {},
                                .like = document,
                                .on_prefill = nullptr,
                                .on_text = [&](std::string_view text) { answer += text; },
                                .cancel = &interrupt.flag()};
  const GenerateResult result = generate(contestant.engine, *contestant.sequence, request);
  if (result.end == GenerateResult::End::kCancelled) throw ExitRequest{kInterrupted};
  contestant.stats.add(contestant.sequence->stats());
  contestant.memory = contestant.sequence->memory();
  contestant.decode_seconds += result.decode_seconds;
  contestant.decode_steps += result.decode_steps;
  return trimmed(answer);
}

void print_table(const std::vector<std::unique_ptr<Contestant>>& contestants, size_t questions) {
  Table table({"", "right", "ms/token", "fast-tier KV", "slow-tier KV", "sketches", "hit rate",
               "drifted heads", "recalled"});
  for (const auto& c : contestants) {
    const bool retrieves = c->stats.pages_selected > 0;
    table.add(
        {c->label, fmt::format("{}/{}", c->right, questions),
         fmt::format("{:.2f}", 1e3 * c->decode_seconds /
                                   static_cast<double>(std::max<int64_t>(1, c->decode_steps))),
         format_bytes(static_cast<double>(c->memory.fast_kv_bytes)),
         format_bytes(static_cast<double>(c->memory.slow_kv_bytes)),
         format_bytes(static_cast<double>(c->memory.sketch_bytes)),
         retrieves ? fmt::format("{:.1f} %", 100 * hit_rate(c->stats)) : "-",
         c->stats.corrections_tested > 0 ? fmt::format("{:.1f} %", 100 * drift_rate(c->stats))
                                         : "-",
         retrieves ? format_bytes(static_cast<double>(c->stats.bytes_recalled)) : "-"});
  }
  fmt::print("{}", table.format());
}

void demo(const DemoOptions& options) {
  const std::string document = read_file(options.document);
  const std::vector<Question> questions = read_questions(options.questions);
  EngineOptions base = options.engine.finish();
  // The policy under test keeps its options; what it is held against is always dense.
  std::vector<std::unique_ptr<Contestant>> contestants;
  contestants.push_back(std::make_unique<Contestant>("dense", with_policy(base, "full")));
  contestants.push_back(std::make_unique<Contestant>("freekv", base, &contestants[0]->engine));

  fmt::print("model     {}, {} of weights\n", contestants[0]->engine.model().name,
             format_bytes(static_cast<double>(contestants[0]->engine.model().weight_bytes)));
  const auto document_tokens = contestants[0]->engine.encode(document, false).size();
  fmt::print("document  {}: {} characters, {} tokens\n", options.document,
             format_count(static_cast<int64_t>(document.size())),
             format_count(static_cast<int64_t>(document_tokens)));
  fmt::print("budget    {} of {} tokens attended per step ({})\n", base.budget,
             format_count(static_cast<int64_t>(document_tokens)), base.policy);

  const Interrupt interrupt;
  const auto read = read_document(contestants[0]->engine, document, interrupt);
  for (const Question& question : questions) {
    fmt::print("\nquestion  {}\n", one_line(question.text));
    std::fflush(stdout);
    for (const auto& c : contestants) {
      const std::string answer =
          ask(*c, document + "\n\n" + question.text, options.max_tokens, read.get(), interrupt);
      const bool right = answer == question.answer;
      c->right += right;
      fmt::print("{:<8}  {}\n", c->label, one_line(answer));
      if (!right) fmt::print("          ^ wrong, expected: {}\n", one_line(question.answer));
      std::fflush(stdout);
    }
  }
  fmt::print("\n");
  print_table(contestants, questions.size());
}

}  // namespace

void add_demo(CLI::App& app) {
  auto* command =
      app.add_subcommand("demo", "Questions about a long document: dense attention beside FreeKV");
  auto options = std::make_shared<DemoOptions>();
  options->engine.options.model = "models/freekv-demo.gguf";
  options->engine.options.policy = "freekv";
  options->engine.options.budget = 1024;
  options->engine.add_to(*command, false);
  command->add_option("-m,--model", options->engine.options.model, "GGUF file or checkpoint folder")
      ->capture_default_str();
  command->add_option("--document", options->document, "text file")->capture_default_str();
  command->add_option("--questions", options->questions, "JSON list of question and answer")
      ->capture_default_str();
  command->add_option("-n,--n-predict", options->max_tokens, "most tokens of an answer")
      ->capture_default_str();
  command->callback([options] { demo(*options); });
}

}  // namespace freekv::app
