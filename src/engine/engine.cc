#include "freekv/engine.hpp"

#include <algorithm>
#include <thread>

#include "core/check.hpp"
#include "engine/decode_step.hpp"
#include "engine/policy_model.hpp"
#include "engine/prefill.hpp"
#include "tokenizer/chat_template.hpp"
#include "tokenizer/stream_decoder.hpp"
#include "tokenizer/tokenizer.hpp"

namespace freekv {
namespace {

DType parse_kv_type(const std::string& name) {
  if (name == "f32") return DType::kF32;
  if (name == "f16") return DType::kF16;
  if (name == "bf16") return DType::kBF16;
  fail(ErrorCode::kInvalidArgument, "kv type is \"{}\", must be f32, f16 or bf16", name);
}

Activations parse_activations(const std::string& name) {
  if (name == "auto") return Activations::kAuto;
  if (name == "f32") return Activations::kF32;
  if (name == "int8") return Activations::kInt8;
  fail(ErrorCode::kInvalidArgument, "activations is \"{}\", must be auto, f32 or int8", name);
}

std::unique_ptr<Backend> make_backend(const EngineOptions& options) {
  const Activations activations = parse_activations(options.activations);
  if (options.backend == "cpu") return make_cpu_backend(activations);
  if (options.backend == "reference") return make_reference_backend(activations);
  fail(ErrorCode::kInvalidArgument, "backend is \"{}\", must be cpu or reference", options.backend);
}

EngineOptions complete(EngineOptions options, const ModelConfig& config) {
  if (options.threads == 0) {
    options.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  const int64_t given_context = options.context;
  if (options.context == 0) options.context = config.context_length;
  check_argument(options.context >= 1 && options.context <= config.context_length,
                 "context is {}, must be 1 to the model's {}", options.context,
                 config.context_length);
  // Within its window a model sees everything, so shorter contexts are exact.
  const bool windowed = config.sliding_window > 0;
  if (given_context == 0 && windowed) {
    options.context = std::min(options.context, config.sliding_window);
  }
  check_argument(!windowed || options.context <= config.sliding_window,
                 "context is {}, the model's sliding window is {}, longer contexts of such models "
                 "are not supported",
                 options.context, config.sliding_window);
  check_argument(options.page >= 1 && options.page <= 1024, "page is {}, must be 1 to 1024",
                 options.page);
  check_argument(options.max_batch >= 1 && options.max_batch <= 4096,
                 "batch is {}, must be 1 to 4096", options.max_batch);
  check_argument(options.chunk >= 1 && options.chunk <= 1 << 16, "chunk is {}, must be 1 to 65536",
                 options.chunk);
  check_argument(options.sink >= 0, "sink is {}, must be 0 or more", options.sink);
  check_argument(options.window >= 1, "window is {}, must be 1 or more", options.window);
  check_argument(options.budget >= 1, "budget is {}, must be 1 or more", options.budget);
  return options;
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
  Impl(const CacheConfig& config, const CacheNeeds& needs, Backend& backend, const Policy& policy,
       int64_t vocab, CacheServices services)
      : cache(config, needs, backend, std::move(services)), state(policy.make_state(config)) {
    logits.resize(static_cast<size_t>(vocab));
  }

  SequenceCache cache;
  std::unique_ptr<PolicyState> state;
  std::vector<float> logits;
  std::vector<int32_t> prompt;  // whose KV, as prefill made it, the cache begins with
  int64_t length = 0;           // of the prompt that these are the tokens of
  int64_t kept = 0;             // tokens of the last prompt that were not computed
  bool started = false;
};

Sequence::Sequence(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Sequence::~Sequence() = default;
int64_t Sequence::tokens() const { return impl_->cache.tokens(); }
int64_t Sequence::context() const { return impl_->cache.config().max_context; }
const RetrievalStats& Sequence::stats() const { return impl_->cache.stats(); }
int64_t Sequence::kept_tokens() const { return impl_->kept; }
MemoryStats Sequence::memory() const { return impl_->cache.memory(); }
std::span<const float> Sequence::logits() const {
  return impl_->started ? std::span<const float>(impl_->logits) : std::span<const float>();
}

struct Engine::Impl {
  Impl(const EngineOptions& given, const LoadProgress& on_load)
      : model(given.model),
        tokenizer(load_tokenizer(model)),
        options(complete(given, model.config())),
        backend(make_backend(options)),
        policy(make_policy(options.policy)),
        policy_model(model, options.max_batch),
        ctx(options.threads),
        workspace(model.config(), options.chunk, options.max_batch) {
    const ModelConfig& config = model.config();
    check_argument(!tokenizer || tokenizer->vocab_size() <= config.vocab,
                   "{}: the tokenizer has {} tokens, the model {}", given.model,
                   tokenizer ? tokenizer->vocab_size() : 0, config.vocab);
    const CacheConfig cache = cache_config(options.context);
    policy->plan(cache);  // options that cannot be met are refused here, before any prefill
    const int64_t q_width = int64_t{config.query_heads} * config.head_dim;
    backend->reserve(
        ctx,
        {.max_rows = options.max_batch,
         .max_chunk = options.chunk,
         .max_cols = std::max<int64_t>({config.hidden, config.ffn, q_width}),
         .max_weight_rows = std::max<int64_t>({config.hidden, config.ffn, q_width, config.vocab}),
         .max_pages = cache.max_pages(),
         .heads = config.query_heads,
         .kv_heads = config.kv_heads,
         .head_dim = config.head_dim,
         .page = options.page});
    model.load(ctx.pool(), on_load);  // last, since it takes long and nothing can be wrong after it
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

  CacheConfig cache_config(int64_t context) const {
    const ModelConfig& config = model.config();
    const auto share = [&](size_t limit) {
      return limit == SIZE_MAX ? SIZE_MAX : limit / static_cast<size_t>(options.max_batch);
    };
    return {.layers = config.layers,
            .query_heads = config.query_heads,
            .shape = {.heads = config.kv_heads,
                      .head_dim = config.head_dim,
                      .page = options.page,
                      .dtype = parse_kv_type(options.kv_type)},
            .max_context = context,
            .tokens = {options.budget, options.sink, options.window},
            .fast_limit_bytes = share(options.device_kv),
            .slow_limit_bytes = share(options.host_kv)};
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

  StepContext step() { return {ctx, *backend, model, *policy, workspace}; }

  Model model;
  std::optional<Tokenizer> tokenizer;
  EngineOptions options;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Policy> policy;
  PolicyModel policy_model;
  ExecutionContext ctx;
  Workspace workspace;
  // One for all sequences; its threads start with the first that recalls.
  std::shared_ptr<RecallEngine> recall = std::make_shared<RecallEngine>();
  std::vector<PolicySequence> batch;  // of the step under way
  ModelInfo info;
};

Engine::Engine(const EngineOptions& options, const LoadProgress& on_load)
    : impl_(std::make_unique<Impl>(options, on_load)) {}
Engine::~Engine() = default;
const EngineOptions& Engine::options() const { return impl_->options; }
const ModelInfo& Engine::model() const { return impl_->info; }

std::vector<int32_t> Engine::encode(std::string_view text, bool special) const {
  return impl_->text().encode(text, {.add_bos = false, .parse_special = special});
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

std::unique_ptr<Sequence> Engine::new_sequence(int64_t context) {
  if (context == 0) context = impl_->options.context;
  check_argument(context >= 1 && context <= impl_->options.context,
                 "a sequence's context is {}, must be 1 to the engine's {}", context,
                 impl_->options.context);
  const CacheConfig config = impl_->cache_config(context);
  return std::unique_ptr<Sequence>(new Sequence(std::make_unique<Sequence::Impl>(
      config, impl_->policy->plan(config), *impl_->backend, *impl_->policy,
      impl_->model.config().vocab, CacheServices{impl_->recall, nullptr})));
}

namespace {

/// The first tokens that a prompt of which `cache` is to hold the KV has in common with one of
/// which KV exists, as far as they need not be computed. `length` is that of the whole prompt in
/// which they were computed: some rotary frequencies depend on it.
int64_t common_tokens(const RopeFrequencies& rope, const SequenceCache& cache,
                      std::span<const int32_t> prompt, std::span<const int32_t> known,
                      int64_t length) {
  const auto size = static_cast<int64_t>(prompt.size());
  if (rope.depends_on_length(size, length)) return 0;
  const auto differs =
      std::mismatch(prompt.begin(), prompt.end(), known.begin(), known.end()).first;
  return std::min(differs - prompt.begin(), tokens_without_queries(cache, size));
}

/// Whether KV can be copied: it has the same form and its policy kept all of it.
bool can_copy(const SequenceCache& cache, const SequenceCache& like) {
  const CacheConfig &a = cache.config(), &b = like.config();
  return a.layers == b.layers && a.shape.heads == b.shape.heads &&
         a.shape.head_dim == b.shape.head_dim && a.shape.dtype == b.shape.dtype && like.keeps_all();
}

}  // namespace

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
  s.started = false;
  PrefillPrefix prefix;
  const RopeFrequencies& rope = impl_->model.rope();
  int64_t kept = 0;
  if (like == &sequence && s.cache.keeps_all()) {
    kept = common_tokens(rope, s.cache, prompt, s.prompt, s.length);
  } else if (like && like != &sequence && like->impl_->started &&
             can_copy(s.cache, like->impl_->cache)) {
    const int64_t common =
        common_tokens(rope, s.cache, prompt, like->impl_->prompt, like->impl_->length);
    prefix = {&like->impl_->cache, common - common % impl_->options.chunk};
  }
  s.kept = kept + prefix.tokens;
  s.prompt.clear();
  if (kept > 0) {
    s.cache.truncate(impl_->ctx, kept);
  } else {
    s.cache.reset();
  }
  s.state = impl_->policy->make_state(s.cache.config());
  s.length = static_cast<int64_t>(prompt.size());
  try {
    const auto logits = freekv::prefill(impl_->step(), {s.cache, *s.state, &impl_->policy_model},
                                        prompt, impl_->options.chunk, prefix, proceed);
    std::copy_n(logits.data(), s.logits.size(), s.logits.data());
  } catch (const Error& error) {
    // Between two chunks the cache is whole, and a later call may go on from there.
    if (error.code() == ErrorCode::kCancelled) {
      s.prompt.assign(prompt.begin(), prompt.begin() + s.cache.tokens());
    }
    throw;
  }
  s.prompt.assign(prompt.begin(), prompt.end());
  s.started = true;
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
    check_argument(sequence.impl_->started, "sequence {} of the batch has no prompt yet", i);
    check_argument(sequence.tokens() < sequence.context(),
                   "sequence {} holds {} tokens, the context limit is {}", i, sequence.tokens(),
                   sequence.context());
    check_argument(tokens[i] >= 0 && tokens[i] < impl_->info.vocab,
                   "token {} is outside the {} of the model", tokens[i], impl_->info.vocab);
    impl_->batch.push_back({sequence.impl_->cache, *sequence.impl_->state, &impl_->policy_model});
  }
  if (impl_->batch.empty()) return;
  View<const float, 2> logits;
  try {
    logits = decode_step(impl_->step(), impl_->batch, tokens);
  } catch (...) {
    // Nothing that these sequences hold is certain any more.
    for (Sequence* sequence : sequences) {
      sequence->impl_->started = false;
      sequence->impl_->prompt.clear();
    }
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
