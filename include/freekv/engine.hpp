// The engine: a model, a backend and a retrieval policy; sequences that grow through it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "freekv/chat.hpp"
#include "freekv/error.hpp"
#include "freekv/options.hpp"
#include "freekv/stats.hpp"

namespace freekv {

/// One text in the making: its KV cache, the policy's memory of it and its last logits. Made by
/// Engine::new_sequence(), used with that engine only, and dropped before it.
class Sequence {
 public:
  ~Sequence();
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  /// Tokens whose KV is in the cache.
  int64_t tokens() const;
  /// Most tokens it can hold.
  int64_t context() const;
  /// First tokens of the last prompt that prefill took over from `like` and did not compute.
  int64_t kept_tokens() const;
  /// Logits [vocab] after its last token; empty before prefill.
  std::span<const float> logits() const;
  /// Counters since the last prefill began.
  const RetrievalStats& stats() const;
  MemoryStats memory() const;

 private:
  friend class Engine;
  struct Impl;
  explicit Sequence(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

struct ModelInfo {
  std::string name;
  std::string architecture;
  int layers = 0;
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int64_t vocab = 0;        // rows of the logits
  int64_t text_tokens = 0;  // of these, tokens that exist
  int64_t context_length = 0;
  size_t weight_bytes = 0;
};

/// A value of EngineOptions::backend.
struct BackendInfo {
  std::string name;
  std::string summary;  // one line
  std::string device;   // its name and memory; empty when there is none here
  std::string problem;  // what keeps it from running here, in one line; else empty
};
/// All backends of this build, and what they would run on.
std::vector<BackendInfo> backends();

/// Called in bytes of weights while a model is loaded; returning false ends with Error(kCancelled).
using LoadProgress = std::function<bool(size_t done, size_t total)>;

/// Used by one thread at a time. Throws Error from every call; after one, sequences it was working
/// on must be prefilled anew, all others are untouched.
class Engine {
 public:
  /// Loads the model and takes the scratch memory of every step. With the backend "cuda" throws
  /// Error(kDevice) when its library, a driver or a device is missing. Weights that `like`, an
  /// engine of the same file, rope and backend, has put on a device are used from there.
  explicit Engine(const EngineOptions& options, const LoadProgress& on_load = nullptr,
                  const Engine* like = nullptr);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const EngineOptions& options() const;  // with zeros replaced by what was chosen
  const ModelInfo& model() const;
  /// What computes: the backend's name, or that of its device, such as "NVIDIA H200".
  const std::string& device() const;
  /// For the policy "auto": which one was chosen and why, in one line; else empty.
  const std::string& policy_note() const;

  // --- text -------------------------------------------------------------------------------------
  /// Any bytes; with `special`, texts of special tokens become these tokens.
  std::vector<int32_t> encode(std::string_view text, bool special) const;
  /// A text that a sequence begins with and that no template has written: behind the token that the
  /// model expects there, if it expects one (tokenizer.ggml.add_bos_token). Texts of special tokens
  /// stay texts.
  std::vector<int32_t> encode_prompt(std::string_view text) const;
  std::string decode(std::span<const int32_t> tokens) const;
  /// True for tokens that end an answer.
  bool is_end(int32_t token) const;
  /// A conversation in the model's chat format, by the template that the model brings, up to where
  /// the next answer begins when `add_generation_prompt`. Encode it with `special`; the template
  /// writes what a text begins with, so nothing is to be added. Throws Error(kUnsupported) when
  /// there is no template or it uses a feature of Jinja that is not implemented, and
  /// Error(kInvalidArgument) with the template's words when it refuses the conversation.
  std::string chat_prompt(std::span<const ChatMessage> messages,
                          bool add_generation_prompt = true) const;

  // --- sequences --------------------------------------------------------------------------------
  /// What a sequence of `context` tokens (0: the engine's) takes when it is full; on a device all
  /// of it is taken when the sequence is made, the slow tier as locked host memory.
  MemoryStats memory_for(int64_t context = 0) const;
  /// An empty sequence of at most `context` tokens (0: the engine's). Throws Error(kOutOfMemory)
  /// with both byte counts when the caches do not fit the limits, or what a device or its host has.
  ///
  /// `kept_queries`: of so many last tokens of its prompts the sequence keeps the queries too, so
  /// that it serves as `like` for policies that look at them; layers * query heads * head_dim * 4
  /// bytes a token, for which no limit is set here; a device takes half of that while it reads.
  std::unique_ptr<Sequence> new_sequence(int64_t context = 0, int64_t kept_queries = 0);
  /// The last tokens of a prompt whose queries the policy looks at, at most `prompt`: prefill
  /// computes them unless `like` kept their queries.
  int64_t observed_tokens(int64_t prompt) const;
  /// Starts the sequence over with this prompt. `proceed(done)` is called after each chunk;
  /// returning false ends with Error(kCancelled). Throws Error(kInvalidArgument) when the prompt
  /// is empty or longer than the sequence's context.
  ///
  /// `like`, of this or another engine with the same model, rope and KV type, saves work: what this
  /// prompt and its own begin with in common is copied, to the bits that its backend computed. It
  /// may be `sequence` itself: what its last prompt and this one begin with in common then stays
  /// where it is, also after a prefill that was cancelled, unless the policy dropped it. Decoded
  /// tokens never stay: their KV is what sparse attention made of it, and differs from prefill's.
  ///
  /// From an engine on a device to one on the host, the KV that the device computed is copied, for
  /// policies that only the host runs.
  ///
  /// On a device whole pages are copied, none after a prefill that was cancelled, and the tokens
  /// after them are computed in other chunks than without `like`, so that their last bits may
  /// differ. Where both prompts are the same nothing is computed and no bit differs.
  void prefill(Sequence& sequence, std::span<const int32_t> prompt,
               const std::function<bool(int64_t done)>& proceed = nullptr,
               const Sequence* like = nullptr);
  /// One decode step: sequences[i] continues with tokens[i]; at most options().max_batch of them,
  /// each with room for one more token.
  void decode(std::span<Sequence* const> sequences, std::span<const int32_t> tokens);

 private:
  friend class TextStream;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct GenerateResult {
  enum class End { kLength, kEndToken, kContext, kCancelled };
  std::vector<int32_t> tokens;
  End end = End::kLength;
  double prefill_seconds = 0;
  double decode_seconds = 0;  // of all steps; the first token comes with the prefill
  int64_t decode_steps = 0;
};

/// Prefills `sequence` with `prompt` and samples up to `max_tokens`. Callbacks may be empty:
/// `on_prefill(done)` after each chunk, `on_text(bytes)` with whole UTF-8 characters as they come.
/// When *cancel becomes true the result so far is returned with End::kCancelled.
struct GenerateRequest {
  std::span<const int32_t> prompt = {};
  int64_t max_tokens = 0;
  SamplingOptions sampling = {};
  const Sequence* like = nullptr;  // see Engine::prefill
  std::function<void(int64_t done)> on_prefill = nullptr;
  std::function<void(std::string_view text)> on_text = nullptr;
  const std::atomic<bool>* cancel = nullptr;
};
GenerateResult generate(Engine& engine, Sequence& sequence, const GenerateRequest& request);

/// Assembles whole UTF-8 characters from tokens; joined they are what Engine::decode gives. One per
/// answer; refers to the engine.
class TextStream {
 public:
  explicit TextStream(const Engine& engine);
  ~TextStream();
  /// The characters completed by this token, possibly none; valid until the next call.
  std::string_view push(int32_t token);
  /// What is left at the end of an answer cut inside a character.
  std::string_view finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace freekv
