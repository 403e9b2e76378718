// freekv chat: an interactive session.
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <new>
#include <optional>

#include "commands.hpp"
#include "conversation.hpp"
#include "engine_flags.hpp"
#include "freekv/engine.hpp"
#include "interrupt.hpp"
#include "line_reader.hpp"
#include "print_text.hpp"
#include "progress.hpp"
#include "read_file.hpp"
#include "report.hpp"

namespace freekv::app {
namespace {

constexpr const char* kHelp =
    "/stats          tokens, time and memory of the last answer\n"
    "/policy         the retrieval policy in use; /policy SPEC changes it\n"
    "/save FILE      keep the conversation as JSON\n"
    "/load FILE      go on with a conversation that was kept\n"
    "/clear          forget the conversation\n"
    "/quit           end (so does Ctrl-D)\n"
    "End a line with \\ to go on in the next, or begin and end a text of several lines with "
    "\"\"\".\n"
    "Ctrl-C stops an answer. A text that begins with / is written with //.\n";

struct ChatOptions {
  EngineFlags engine;
  SamplingOptions sampling;
  std::string file;
  std::string system;
  int64_t max_tokens = 2048;
};

/// What a person hears besides the answers: on standard error, so that answers can be piped.
template <typename... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
  std::fflush(stdout);
  fmt::print(stderr, format, std::forward<Args>(args)...);
}

std::string without_last_newlines(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

class Chat {
 public:
  explicit Chat(const ChatOptions& options)
      : options_(options),
        engine_(std::make_unique<Engine>(options.engine.finish(), progress_bar())),
        sequence_(make_sequence(*engine_)) {
    clear();
    check_template();
    if (!options.file.empty()) document_ = without_last_newlines(read_file(options.file));
  }

  void run() {
    if (reader_.interactive()) {
      // One that comes just after an answer has ended must not end the session.
      std::signal(SIGINT, SIG_IGN);
      say("{}, policy {}, context {} tokens. /help lists commands.\n", engine_->model().name,
          engine_->options().policy, format_count(sequence_->context()));
    }
    if (!document_.empty()) attempt([&] { read_document(); });
    while (!done_) {
      const std::optional<std::string> text = read_message();
      if (!text) break;
      if (text->find_first_not_of(" \t\n") == std::string::npos) continue;
      attempt([&] { take(*text); });
    }
    if (reader_.interactive() && !done_) fmt::print("\n");
  }

 private:
  /// A model without a usable template says so now, not after the first question.
  void check_template() const {
    try {
      engine_->chat_prompt(user_turn("hello"));
    } catch (const Error& error) {
      // The template may want more than this of a conversation.
      if (error.code() != ErrorCode::kInvalidArgument) throw;
    }
  }

  /// The whole context is reserved; on a device that is memory taken, so it is said before.
  static std::unique_ptr<Sequence> make_sequence(Engine& engine) {
    if (!engine.policy_note().empty()) say("policy {}\n", engine.policy_note());
    if (engine.device() != engine.options().backend) {
      say("{}\n", format_memory(engine, engine.options().context));
    }
    return engine.new_sequence();
  }

  /// One line of what went wrong; the session goes on.
  template <typename Action>
  void attempt(const Action& action) {
    try {
      action();
    } catch (const Error& error) {
      say("{}\n", error.what());
    } catch (const std::bad_alloc&) {
      say("out of memory\n");
    }
  }

  std::optional<std::string> read_message() {
    constexpr std::string_view kBlock = "\"\"\"";
    std::optional<std::string> line = reader_.read("> ");
    if (!line || reader_.abandoned()) return line;
    std::string text;
    if (line->starts_with(kBlock)) {
      text = line->substr(kBlock.size());
      while (!text.ends_with(kBlock)) {
        line = reader_.read("... ");
        if (line && reader_.abandoned()) return line;
        if (!line) return text;  // the end of input ends the block too
        text += text.empty() ? *line : "\n" + *line;
      }
      return text.substr(0, text.size() - kBlock.size());
    }
    while (line->ends_with('\\')) {
      text += line->substr(0, line->size() - 1) + "\n";
      line = reader_.read("... ");
      if (!line) return text;
      if (reader_.abandoned()) return line;
    }
    return text + *line;
  }

  void take(const std::string& text) {
    if (text.starts_with("//")) return answer(text.substr(1));
    if (!text.starts_with('/')) return answer(text);
    const size_t space = text.find_first_of(" \t\n");
    const std::string name = text.substr(0, space);
    const size_t begin =
        space == std::string::npos ? space : text.find_first_not_of(" \t\n", space);
    std::string argument = begin == std::string::npos ? "" : text.substr(begin);
    argument.erase(argument.find_last_not_of(" \t\n") + 1);
    command(name, argument);
  }

  void command(const std::string& name, const std::string& argument) {
    const bool has_argument = !argument.empty();
    if (name == "/policy") return has_argument ? change_policy(argument) : show_policy();
    if (name == "/save" || name == "/load") {
      if (!has_argument) throw Error(ErrorCode::kInvalidArgument, name + " needs a file");
      return name == "/save" ? save(argument) : load(argument);
    }
    if (has_argument) throw Error(ErrorCode::kInvalidArgument, name + " takes nothing after it");
    if (name == "/help") return say("{}", kHelp);
    if (name == "/stats") return say("{}", stats_.empty() ? "no answer yet\n" : stats_);
    if (name == "/clear") return clear();
    if (name == "/quit" || name == "/exit") {
      done_ = true;
      return;
    }
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("there is no command {}; /help lists them", name));
  }

  void clear() {
    messages_.clear();
    if (!options_.system.empty()) messages_.push_back({"system", options_.system});
  }

  std::vector<int32_t> encode(bool add_generation_prompt) const {
    auto tokens = engine_->encode(engine_->chat_prompt(messages_, add_generation_prompt), true);
    const auto length = static_cast<int64_t>(tokens.size());
    if (length > sequence_->context()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("the conversation has {} tokens, the context limit is {}; /clear "
                              "forgets it",
                              length, sequence_->context()));
    }
    return tokens;
  }

  /// Prefills ahead of the first question what it begins with; stopping is no harm.
  void read_document() {
    messages_.push_back({"user", document_});
    const auto forget = [&](const void*) { messages_.pop_back(); };
    const std::unique_ptr<const void, decltype(forget)> forget_at_end(this, forget);
    prefill(*engine_, *sequence_, encode(false), sequence_.get());
  }

  /// Throws Error(kCancelled) after Ctrl-C.
  static void prefill(Engine& engine, Sequence& sequence, const std::vector<int32_t>& tokens,
                      const Sequence* like) {
    const Interrupt interrupt(Interrupt::Second::kIgnored);
    Progress progress("reading", static_cast<int64_t>(tokens.size()));
    const auto proceed = [&](int64_t done) {
      progress.update(done);
      return !interrupt.flag();
    };
    engine.prefill(sequence, tokens, proceed, like);
  }

  void answer(const std::string& text) {
    const bool first = messages_.empty() || messages_.back().role == "system";
    messages_.push_back({"user", first && !document_.empty() ? document_ + "\n\n" + text : text});
    std::string reply;
    try {
      reply = generate_reply();
    } catch (...) {
      messages_.pop_back();
      throw;
    }
    messages_.push_back({"assistant", std::move(reply)});
  }

  std::string generate_reply() {
    const std::vector<int32_t> prompt = encode(true);
    const auto length = static_cast<int64_t>(prompt.size());
    const Interrupt interrupt(Interrupt::Second::kIgnored);
    std::optional<Progress> progress(std::in_place, "reading", length);
    std::string reply;
    const GenerateRequest request{
        .prompt = prompt,
        .max_tokens = options_.max_tokens,
        .sampling = options_.sampling,
        .like = sequence_.get(),
        .on_prefill =
            [&](int64_t done) {
              progress->update(done);
              if (done == length) progress.reset();
            },
        .on_text =
            [&](std::string_view piece) {
              reply += piece;
              print_text(piece);
            },
        .cancel = &interrupt.flag(),
    };
    const GenerateResult result = generate(*engine_, *sequence_, request);
    progress.reset();
    if (!reply.ends_with('\n')) std::fputc('\n', stdout);
    std::fflush(stdout);
    note_stats(request, result);
    if (result.end == GenerateResult::End::kCancelled && result.tokens.empty()) {
      throw Error(ErrorCode::kCancelled, "stopped before the answer; your message is not kept");
    }
    say_end(result);
    return reply;
  }

  void say_end(const GenerateResult& result) const {
    switch (result.end) {
      case GenerateResult::End::kCancelled:
        return say("[stopped]\n");
      case GenerateResult::End::kLength:
        return say("[stopped after {} tokens, -n sets more]\n", result.tokens.size());
      case GenerateResult::End::kContext:
        return say("[the context of {} tokens is full; /clear forgets the conversation]\n",
                   sequence_->context());
      case GenerateResult::End::kEndToken:
        return;
    }
  }

  void note_stats(const GenerateRequest& request, const GenerateResult& result) {
    const int64_t kept = sequence_->kept_tokens();
    GenerateRequest computed = request;
    computed.prompt = request.prompt.subspan(static_cast<size_t>(kept));
    stats_ = fmt::format("prompt   {} tokens, of which {} were kept from before\n{}",
                         format_count(static_cast<int64_t>(request.prompt.size())),
                         format_count(kept), generation_text(*sequence_, computed, result));
  }

  void show_policy() const {
    const EngineOptions& o = engine_->options();
    say("{}, budget {} tokens, sink {}, window {}, page {}\n", o.policy, o.budget, o.sink, o.window,
        o.page);
  }

  /// The new engine reads the history, or copies what the old one has of it.
  void change_policy(const std::string& policy) {
    EngineOptions options = engine_->options();
    options.policy = policy;
    auto engine = std::make_unique<Engine>(options, progress_bar(), engine_.get());
    auto sequence = make_sequence(*engine);
    if (messages_.size() > (options_.system.empty() ? 0u : 1u)) {
      prefill(*engine, *sequence, encode(false), sequence_.get());
    }
    sequence_ = std::move(sequence);
    engine_ = std::move(engine);
    show_policy();
  }

  void save(const std::string& path) const {
    const EngineOptions& o = engine_->options();
    const SamplingOptions& s = options_.sampling;
    save_conversation({.model = engine_->model().name,
                       .options = {{"policy", o.policy},
                                   {"budget", o.budget},
                                   {"sink", o.sink},
                                   {"window", o.window},
                                   {"page", o.page},
                                   {"kv_type", o.kv_type},
                                   {"temperature", s.temperature},
                                   {"top_k", s.top_k},
                                   {"top_p", s.top_p},
                                   {"min_p", s.min_p},
                                   {"repetition_penalty", s.repetition_penalty},
                                   {"seed", s.seed}},
                       .messages = messages_},
                      path);
    say("{} messages saved to {}\n", messages_.size(), path);
  }

  void load(const std::string& path) {
    Conversation conversation = load_conversation(path);
    messages_ = std::move(conversation.messages);
    say("{} messages loaded from {}", messages_.size(), path);
    const bool same = conversation.model == engine_->model().name;
    say("{}\n", same ? "" : fmt::format(" (they were led with {})", conversation.model));
  }

  const ChatOptions& options_;
  LineReader reader_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Sequence> sequence_;  // dropped before its engine
  std::vector<ChatMessage> messages_;
  std::string document_;  // comes before the first question
  std::string stats_;     // of the last answer
  bool done_ = false;
};

}  // namespace

void add_chat(CLI::App& app) {
  auto* command = app.add_subcommand("chat", "Talk with a model, about a document or without");
  auto options = std::make_shared<ChatOptions>();
  options->engine.add_to(*command);
  command->add_option("-f,--file", options->file, "document that the conversation is about");
  command->add_option("--system", options->system, "system message, as the model is to behave");
  command->add_option("-n,--n-predict", options->max_tokens, "most tokens of an answer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  add_sampling_options(*command, options->sampling);
  command->callback([options] { Chat(*options).run(); });
}

}  // namespace freekv::app
