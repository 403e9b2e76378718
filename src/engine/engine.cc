#include "freekv/engine.hpp"

#include <algorithm>

#include "core/check.hpp"
#include "device/host_memory.hpp"
#include "engine/choose_policy.hpp"
#include "engine/device_runner.hpp"
#include "engine/engine_options.hpp"
#include "engine/host_runner.hpp"
#include "tokenizer/chat_template.hpp"
#include "tokenizer/stream_decoder.hpp"
#include "tokenizer/tokenizer.hpp"

namespace freekv {
namespace {

/// The library of options.backend; null for backends of the host.
const DeviceLibrary* find_library(const EngineOptions& options) {
  const std::string& name = options.backend;
  check_argument(name == "cpu" || name == "reference" || name == "cuda",
                 "backend is \"{}\", must be cpu, cuda or reference", name);
  return name == "cuda" ? &load_device_library() : nullptr;
}

/// Bytes that the fast tiers of all sequences may take beside the model's weights.
size_t fast_tier_bytes(const DeviceLibrary* library, const EngineOptions& options,
                       const ModelWeights& weights) {
  if (!library) return std::min(options.device_kv, host_memory().left());
  // Weights are bf16 there; an eighth of what they leave is for activations and what a GPU keeps.
  size_t values = 0;
  for (const WeightView& matrix : weights.matrices()) {
    values += static_cast<size_t>(matrix.rows) * static_cast<size_t>(matrix.cols);
  }
  const size_t free = library->describe().free_bytes;
  return std::min(options.device_kv, (free - std::min(free, 2 * values)) / 8 * 7);
}

/// nullopt when the model brings none; it can then be used with token ids only.
std::optional<Tokenizer> load_tokenizer(const Model& model) {
  if (const Checkpoint* folder = model.checkpoint()) {
    if (!has_tokenizer(*folder)) return std::nullopt;
    return Tokenizer::from_folder(folder->folder()).value();
  }
  if (!model.gguf()->has("tokenizer.ggml.model")) return std::nullopt;
  return Tokenizer::from_gguf(*model.gguf()).value();
}

/// Tokens up to the last that is in use: models have rows to spare, which GGUF files name all the
/// same.
int64_t count_text_tokens(const Tokenizer& tokenizer) {
  int32_t count = tokenizer.vocab_size();
  while (count > 1 && tokenizer.token_type(count - 1) == TokenType::kUnused) --count;
  return count;
}

}  // namespace

struct Sequence::Impl {
  std::unique_ptr<RunnerSequence> runner;
  std::vector<float> logits;
};

Sequence::Sequence(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Sequence::~Sequence() = default;
int64_t Sequence::tokens() const { return impl_->runner->tokens(); }
int64_t Sequence::context() const { return impl_->runner->context(); }
const RetrievalStats& Sequence::stats() const { return impl_->runner->stats(); }
int64_t Sequence::kept_tokens() const { return impl_->runner->kept_tokens(); }
MemoryStats Sequence::memory() const { return impl_->runner->memory(); }
std::span<const float> Sequence::logits() const {
  return impl_->runner->started ? std::span<const float>(impl_->logits) : std::span<const float>();
}

struct Engine::Impl {
  Impl(const EngineOptions& given, const LoadProgress& on_load, const Impl* like)
      : model(given.model, given.rope),
        tokenizer(load_tokenizer(model)),
        options(complete_options(given, model.config())) {
    const ModelConfig& config = model.config();
    check_argument(!tokenizer || tokenizer->vocab_size() <= config.vocab,
                   "{}: the tokenizer has {} tokens, the model {}", given.model,
                   tokenizer ? tokenizer->vocab_size() : 0, config.vocab);
    parse_activations(options.activations);
    const CacheConfig cache = cache_config(options, config, options.context);
    const DeviceLibrary* library = find_library(options);
    if (is_auto_policy(options.policy)) {
      PolicyChoice choice =
          choose_policy(options, config, fast_tier_bytes(library, options, model.weights()));
      options.policy = choice.policy;
      policy_note = std::move(choice.note);
    }
    policy = make_policy(options.policy);
    policy->plan(cache);  // options that cannot be met are refused here, before any prefill
    if (library) {
      // What is uploaded has the frequencies of rope in it.
      const bool same =
          like && like->options.model == options.model && like->options.rope == options.rope;
      runner = make_device_runner(*library, model, *policy, options, on_load,
                                  same ? like->runner.get() : nullptr);
    } else {
      runner = make_host_runner(model, *policy, options, on_load);
    }
    batch.reserve(static_cast<size_t>(options.max_batch));
    info = {.name = config.name,
            .architecture = config.architecture,
            .layers = config.layers,
            .query_heads = config.query_heads,
            .kv_heads = config.kv_heads,
            .head_dim = config.head_dim,
            .vocab = config.vocab,
            .text_tokens = tokenizer ? count_text_tokens(*tokenizer) : config.vocab,
            .context_length = config.context_length,
            .weight_bytes = model.weights().bytes};
  }

  const Tokenizer& text() const {
    if (!tokenizer) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("brings no tokenizer ({}), only token ids work",
                              model.gguf() ? "tokenizer.ggml.model" : "tokenizer.json"),
                  options.model);
    }
    return *tokenizer;
  }

  int64_t checked_context(int64_t context) const {
    if (context == 0) return options.context;
    check_argument(context >= 1 && context <= options.context,
                   "a sequence's context is {}, must be 1 to the engine's {}", context,
                   options.context);
    return context;
  }

  Model model;
  std::optional<Tokenizer> tokenizer;
  EngineOptions options;
  std::string policy_note;
  std::unique_ptr<Policy> policy;
  std::unique_ptr<Runner> runner;
  std::vector<RunnerSequence*> batch;  // of the step under way
  ModelInfo info;
};

Engine::Engine(const EngineOptions& options, const LoadProgress& on_load, const Engine* like)
    : impl_(std::make_unique<Impl>(options, on_load, like ? like->impl_.get() : nullptr)) {}
Engine::~Engine() = default;
const EngineOptions& Engine::options() const { return impl_->options; }
const ModelInfo& Engine::model() const { return impl_->info; }
const std::string& Engine::device() const { return impl_->runner->device(); }
const std::string& Engine::policy_note() const { return impl_->policy_note; }

std::vector<int32_t> Engine::encode(std::string_view text, bool special) const {
  return impl_->text().encode(text, {.add_bos = false, .parse_special = special});
}

std::vector<int32_t> Engine::encode_prompt(std::string_view text) const {
  return impl_->text().encode(text, {.add_bos = true, .parse_special = false});
}

std::string Engine::decode(std::span<const int32_t> tokens) const {
  return impl_->text().decode(tokens);
}

bool Engine::is_end(int32_t token) const { return impl_->text().is_end_of_generation(token); }

std::string Engine::chat_prompt(std::span<const ChatMessage> messages,
                                bool add_generation_prompt) const {
  const auto& source = impl_->text().chat_template();
  if (!source) {
    throw Error(ErrorCode::kUnsupported, "the model has no chat template", impl_->options.model);
  }
  return ChatTemplate::parse(
             *source, impl_->options.model +
                          (impl_->model.gguf() ? ": tokenizer.chat_template" : ": chat_template"))
      .value()
      .render(messages, add_generation_prompt, impl_->text());
}

MemoryStats Engine::memory_for(int64_t context) const {
  return impl_->runner->memory_for(impl_->checked_context(context));
}

int64_t Engine::observed_tokens(int64_t prompt) const {
  const CacheConfig cache =
      cache_config(impl_->options, impl_->model.config(), impl_->options.context);
  return std::min(prompt, impl_->policy->plan(cache).observed);
}

std::unique_ptr<Sequence> Engine::new_sequence(int64_t context, int64_t kept_queries) {
  context = impl_->checked_context(context);
  check_argument(kept_queries >= 0 && kept_queries <= context,
                 "queries of {} tokens are to be kept, must be 0 to the context's {}", kept_queries,
                 context);
  auto sequence = std::make_unique<Sequence::Impl>();
  sequence->runner = impl_->runner->new_sequence(context);
  if (kept_queries > 0) impl_->runner->keep_queries(*sequence->runner, kept_queries);
  sequence->logits.resize(static_cast<size_t>(impl_->info.vocab));
  return std::unique_ptr<Sequence>(new Sequence(std::move(sequence)));
}

void Engine::prefill(Sequence& sequence, std::span<const int32_t> prompt,
                     const std::function<bool(int64_t)>& proceed, const Sequence* like) {
  Sequence::Impl& s = *sequence.impl_;
  check_argument(!prompt.empty(), "the prompt is empty, must have at least 1 token");
  check_argument(static_cast<int64_t>(prompt.size()) <= sequence.context(),
                 "the prompt has {} tokens, the context limit is {}", prompt.size(),
                 sequence.context());
  for (int32_t token : prompt) {
    check_argument(token >= 0 && token < impl_->info.vocab,
                   "token {} is outside the {} of the model", token, impl_->info.vocab);
  }
  s.runner->started = false;
  const auto logits = impl_->runner->prefill(*s.runner, prompt, proceed,
                                             like ? like->impl_->runner.get() : nullptr);
  std::copy_n(logits.data(), s.logits.size(), s.logits.data());
  s.runner->started = true;
}

void Engine::decode(std::span<Sequence* const> sequences, std::span<const int32_t> tokens) {
  check_argument(sequences.size() == tokens.size(), "{} sequences but {} tokens", sequences.size(),
                 tokens.size());
  check_argument(sequences.size() <= static_cast<size_t>(impl_->options.max_batch),
                 "a batch of {} sequences, the limit is {}", sequences.size(),
                 impl_->options.max_batch);
  impl_->batch.clear();
  for (size_t i = 0; i < sequences.size(); ++i) {
    Sequence& sequence = *sequences[i];
    check_argument(sequence.impl_->runner->started, "sequence {} of the batch has no prompt yet",
                   i);
    check_argument(sequence.tokens() < sequence.context(),
                   "sequence {} holds {} tokens, the context limit is {}", i, sequence.tokens(),
                   sequence.context());
    check_argument(tokens[i] >= 0 && tokens[i] < impl_->info.vocab,
                   "token {} is outside the {} of the model", tokens[i], impl_->info.vocab);
    impl_->batch.push_back(sequence.impl_->runner.get());
  }
  if (impl_->batch.empty()) return;
  View<const float, 2> logits;
  try {
    logits = impl_->runner->decode(impl_->batch, tokens);
  } catch (...) {
    // Nothing that these sequences hold is certain any more.
    for (RunnerSequence* sequence : impl_->batch) sequence->started = false;
    throw;
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    auto& out = sequences[i]->impl_->logits;
    std::copy_n(logits[static_cast<int64_t>(i)].data(), out.size(), out.data());
  }
}

struct TextStream::Impl {
  StreamDecoder decoder;
};

TextStream::TextStream(const Engine& engine)
    : impl_(std::make_unique<Impl>(StreamDecoder(engine.impl_->text()))) {}
TextStream::~TextStream() = default;
std::string_view TextStream::push(int32_t token) { return impl_->decoder.push(token); }
std::string_view TextStream::finish() { return impl_->decoder.flush(); }

}  // namespace freekv
