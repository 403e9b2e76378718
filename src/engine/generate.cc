// The generation loop over the engine's public calls.
#include <chrono>

#include "engine/sampler.hpp"
#include "freekv/engine.hpp"

namespace freekv {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

GenerateResult generate(Engine& engine, Sequence& sequence, const GenerateRequest& request) {
  GenerateResult result;
  const auto cancelled = [&] { return request.cancel && request.cancel->load(); };
  const auto tokens = static_cast<size_t>(engine.model().text_tokens);
  Sampler sampler(request.sampling, engine.model().text_tokens);
  for (int32_t token : request.prompt) sampler.accept(token);

  auto start = std::chrono::steady_clock::now();
  try {
    engine.prefill(
        sequence, request.prompt,
        [&](int64_t done) {
          if (request.on_prefill) request.on_prefill(done);
          return !cancelled();
        },
        request.like);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
    result.end = GenerateResult::End::kCancelled;
    result.prefill_seconds = seconds_since(start);
    return result;
  }
  result.prefill_seconds = seconds_since(start);

  start = std::chrono::steady_clock::now();
  TextStream stream(engine);
  const auto emit = [&](std::string_view text) {
    if (request.on_text && !text.empty()) request.on_text(text);
  };
  while (static_cast<int64_t>(result.tokens.size()) < request.max_tokens) {
    if (cancelled()) {
      result.end = GenerateResult::End::kCancelled;
      break;
    }
    const int32_t token = sampler.sample(sequence.logits().first(tokens));
    if (engine.is_end(token)) {
      result.end = GenerateResult::End::kEndToken;
      break;
    }
    result.tokens.push_back(token);
    emit(stream.push(token));
    if (static_cast<int64_t>(result.tokens.size()) == request.max_tokens) break;
    if (sequence.tokens() == sequence.context()) {
      result.end = GenerateResult::End::kContext;
      break;
    }
    Sequence* const batch[] = {&sequence};
    engine.decode(batch, std::span(&token, 1));
    ++result.decode_steps;
  }
  emit(stream.finish());
  result.decode_seconds = seconds_since(start);
  return result;
}

}  // namespace freekv
